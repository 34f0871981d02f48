"""States made in a process of its own: the same as ever, whatever happens to that process, the events or the model."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.serve import sources, warm
from ss4rec.serve.history import import_histories
from ss4rec.serve.kept_states import open_kept_states
from ss4rec.serve.served_model import load_served
from ss4rec.serve.service import Ask, Service
from ss4rec.serve.settings import ServeSettings
from ss4rec.serve.sources import Follower, look
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.serve.store import NewEvent
from ss4rec.states import state_model
from tests.progress import until


@pytest.fixture
def users(prepared):
    return [str(user) for user in PreparedFolder.open(prepared).users["source_id"].to_pylist()[:40]]


@pytest.fixture
def store(prepared, tmp_path):
    store = SqliteStore(tmp_path / "events.db")
    import_histories(PreparedFolder.open(prepared), store)
    yield store
    store.close()


@pytest.fixture
def link(runs, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(runs / "run-1")
    return link


def move(link, run):
    link.unlink()
    link.symlink_to(run)


def order(runs, store, users, **more):
    return warm.Order(
        **{
            "run": str(runs / "run-2"),
            "precision": "full",
            "store": str(store.path),
            "states": f"{store.path}.states",
            "store_id": store.id,
            "most": 1000,
            "users": users,
            "parent": os.getpid(),
        }
        | more
    )


def serving(link, store, kept, run="run-1"):
    """Return a server and what follows the link for it; its own thread is not started."""
    settings = ServeSettings(run=str(link), store=str(store.path), look_every_s=3600)
    found = look(settings)
    service = Service(store, load_served(found.folder), kept=open_kept_states(store, 1000) if kept else None)
    return service, Follower(service, settings, found.mark)


def same(service, users):
    """Compare every list with that of a server that has nothing but the store."""
    fresh = Service(service.store, service.model)
    asks = [Ask(user=user) for user in users]
    for found, wanted in zip(service.recommend(asks), fresh.recommend(asks), strict=True):
        assert [r.item for r in found.items] == [r.item for r in wanted.items]
        np.testing.assert_allclose([r.score for r in found.items], [r.score for r in wanted.items], atol=1e-4)
        assert (found.events, found.newest_s) == (wanted.events, wanted.newest_s)


@pytest.mark.parametrize("kept", [True, False])
def test_a_change_of_the_model_leaves_no_state_to_be_made_by_who_answers(
    runs, store, users, link, kept, monkeypatch
):
    service, follower = serving(link, store, kept)
    service.recommend([Ask(user=user) for user in users])
    before = service.counts.rebuilt
    recorded = []
    for name in ("traced_step", "traced_question"):
        monkeypatch.setattr(state_model, name, lambda *arguments, name=name: recorded.append(name))
    items = [str(item) for item in service.model.states.recommender.item_ids]

    def make(*arguments):
        """Events come while states are made, and late ones right after that."""
        made = warm.make_states(*arguments)
        store.add([NewEvent(users[0], items[3], 4_000_000_000), NewEvent(users[1], items[4], 4_000_000_000)])
        store.add([NewEvent(users[1], items[5], 5), NewEvent("new", items[6], 6)])
        move(link, runs / "run-3")  # another change meanwhile
        return made

    monkeypatch.setattr(sources, "make_states", make)
    move(link, runs / "run-2")
    assert follower.check()
    assert service.model.name == "run-2"
    assert service.counts.rebuilt - before == 1, "of the user with the late event"
    assert service.counts.loaded >= len(users)
    same(service, [*users, "new"])
    assert follower.check()
    assert service.model.name == "run-3"
    same(service, [*users, "new"])
    assert not recorded, "whoever makes states leaves graphs"


def test_a_process_that_is_killed_goes_on_where_it_was(runs, store, users, link, monkeypatch, caplog):
    service, follower = serving(link, store, kept=True)
    model = load_served(runs / "run-2")
    started = []

    class Killed(subprocess.Popen):
        """Is killed when the first states are there, the first time."""

        def communicate(self, *arguments):
            if not started:
                started.append(self)
                threading.Thread(target=self.watch).start()
            return super().communicate(*arguments)

        def watch(self):
            while len(service.kept.lacking(model.states, users)) == len(users):
                time.sleep(0.002)
            self.kill()

    monkeypatch.setattr(warm.subprocess, "Popen", Killed)
    assert warm.make_states(order(runs, store, users), threading.Event())
    assert "ended with -9" in caplog.text
    assert not service.kept.lacking(model.states, users)
    move(link, runs / "run-2")
    assert follower.check()
    same(service, users)


def test_a_process_that_never_works_changes_nothing_but_the_time(
    runs, store, users, link, monkeypatch, caplog
):
    service, follower = serving(link, store, kept=True)
    service.recommend([Ask(user=user) for user in users])
    monkeypatch.setattr(warm.sys, "executable", shutil.which("false"))
    move(link, runs / "run-2")
    assert follower.check()
    assert caplog.text.count("ended with 1") == warm.TRIES
    assert "made beside requests" in caplog.text
    same(service, users)


def test_a_server_that_starts_with_another_model_warms_those_who_were_there(runs, store, users, link):
    service, _ = serving(link, store, kept=True)
    service.recommend([Ask(user=user) for user in users])
    service.save_states()
    move(link, runs / "run-2")
    again, follower = serving(link, store, kept=True)
    follower._warm_start()
    again.recommend([Ask(user=user) for user in users])
    assert (again.counts.loaded, again.counts.rebuilt) == (len(users), 0)
    same(again, users)


def test_it_ends_when_it_is_not_wanted_any_more(runs, store, users):
    """A file's lock is held, so the process waits for as long as it lives."""
    text = order(runs, store, users).model_dump_json()
    program = (
        "import os, threading; from ss4rec.serve.warm import Order, make_states; "
        f"order = Order.model_validate_json({text!r}).model_copy(update=dict(parent=os.getpid())); "
        "make_states(order, threading.Event())"
    )
    with open(f"{store.path}.states.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        assert not warm.make_states(order(runs, store, users), stop)
        with subprocess.Popen([sys.executable, "-c", program]) as parent:
            children = f"/proc/{parent.pid}/task/{parent.pid}/children"
            while not (found := Path(children).read_text().split()):
                time.sleep(0.05)
            while "sched_idle" not in policy(found[0]):
                time.sleep(0.05)
            parent.send_signal(signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{found[0]}"))


def policy(pid):
    """Return how a process is given a core."""
    return "sched_idle" if os.sched_getscheduler(int(pid)) == os.SCHED_IDLE else "another"


@pytest.mark.skipif(sys.platform != "linux", reason="the idle class is Linux's")
def test_where_nothing_is_ever_left_over_it_takes_a_small_claim():
    seen = []

    def work():
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        seen.append(policy(0))
        warm._not_starved(threading.get_native_id(), patience_s=0.1)
        seen.append(policy(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["sched_idle", "another"]
