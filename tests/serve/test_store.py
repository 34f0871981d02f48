"""Event stores, SQLite and a real PostgreSQL: the same rules for both."""

import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from ss4rec.errors import UsageError
from ss4rec.serve.open_store import open_store
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.serve.store import NewEvent, StoreError
from tests.progress import until

INITDB = shutil.which("initdb") or next(
    (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A PostgreSQL of our own on loopback."""
    if INITDB is None:
        pytest.skip("no PostgreSQL server is installed here (initdb)")
    pytest.importorskip("psycopg", reason="ss4rec[postgres] is not installed", exc_type=ImportError)
    binaries, folder = Path(INITDB).resolve().parent, tmp_path_factory.mktemp("postgres")
    options: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    if os.geteuid() == 0:  # a server of PostgreSQL refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("runs as root, and there is no user postgres to run the server")
        folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/ss4rec-pg.XXXXXX"], text=True).strip())
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        options |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-N"], check=True, **options
    )
    command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    server = subprocess.Popen(command, **options)
    address = f"postgresql://tester@127.0.0.1:{port}/postgres"

    def answers():
        try:
            open_store(address).close()
        except StoreError:
            return False
        return True

    until(answers, server, every_s=0.1)
    yield address
    server.send_signal(signal.SIGINT)
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "deep" / "events.db")
    return request.getfixturevalue("postgres")


@pytest.fixture
def store(address):
    store = open_store(address)
    yield store
    store.close()


def of(test, number, **changes):
    """Return an event of a user that no other test has."""
    return replace(NewEvent(f"{test}", f"i{number}", 1000 + number, None), **changes)


def test_events_come_back_in_the_order_of_acceptance(store):
    user = "order-ü'\"; DROP TABLE events"
    accepted = store.add([of(user, 3, rating=4.5, context='{"a": 1}'), of(user, 1), of("order-other", 9)])
    assert [(a.outcome, a.number) for a in accepted] == [("added", 1), ("added", 2), ("added", 1)]
    found = store.since({user: 0, "order-nobody": 0})
    assert found["order-nobody"] == []
    assert [(e.number, e.item, e.time_s, e.rating, e.context) for e in found[user]] == [
        (1, "i3", 1003, 4.5, '{"a": 1}'),
        (2, "i1", 1001, None, None),
    ]
    assert [e.number for e in store.since({user: 1})[user]] == [2]
    users, events = store.size()
    assert users >= 2
    assert events >= 3


def test_the_same_event_is_written_once(store):
    plain, named = of("once", 1), of("once", 2, id="a")
    assert [a.outcome for a in store.add([plain, named])] == ["added", "added"]
    again = store.add(
        [plain, named, of("once", 2, id="b"), of("once", 5, id="a"), of("once-other", 2, id="a")]
    )
    assert [(a.outcome, a.number) for a in again] == [
        ("repeated", 1),
        ("repeated", 2),
        ("added", 3),
        ("conflict", 2),
        ("added", 1),
    ]
    assert [e.item for e in store.since({"once": 0})["once"]] == ["i1", "i2", "i2"]


def test_profiles_take_the_place_of_older_ones(store):
    store.set_profiles({"profile-a": '{"sex": "F"}', "profile-'b": "{}"})
    store.set_profiles({"profile-a": '{"sex": "M"}'})
    assert store.profiles(["profile-a", "profile-'b", "profile-nobody"]) == {
        "profile-a": '{"sex": "M"}',
        "profile-'b": "{}",
    }
    assert store.profiles([]) == {}


def test_writers_at_the_same_time_leave_no_gap(address):
    """Numbers 1 to n, each once, and nobody ever sees a number before all below it."""
    user, each, faults = f"crowd-{time.time_ns()}", 40, []
    open_store(address).close()

    def write(part):
        store = open_store(address)
        for number in range(each):
            store.add([of(user, part * each + number), of(f"{user}-{part}", number)])
        store.close()

    def watch():
        store = open_store(address)
        for _ in range(60):
            numbers = [e.number for e in store.since({user: 0})[user]]
            if numbers != list(range(1, len(numbers) + 1)):
                faults.append(numbers)
        store.close()

    threads = [threading.Thread(target=write, args=(part,)) for part in range(3)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(address)
    found = store.since({user: 0})[user]
    store.close()
    assert not faults
    assert [e.number for e in found] == list(range(1, 3 * each + 1))
    assert {e.item for e in found} == {f"i{n}" for n in range(3 * each)}


_WRITER = """
import sys
from ss4rec.serve.open_store import open_store
from ss4rec.serve.store import NewEvent
store = open_store(sys.argv[1])
for number in range(100_000):
    store.add([NewEvent(sys.argv[2], str(number), number)])
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(address):
    user = f"killed-{time.time_ns()}"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, address, user], stdout=subprocess.PIPE, text=True
    )
    lines = [writer.stdout.readline() for _ in range(30)]
    writer.kill()
    lines += writer.stdout.readlines()
    writer.wait()
    store = open_store(address)
    items = {e.item for e in store.since({user: 0})[user]}
    store.close()
    assert {line.strip() for line in lines if line.endswith("\n")} <= items


def test_a_lost_connection_is_made_again(postgres):
    import psycopg

    store = open_store(postgres)
    store.add([of("lost", 1)])
    with psycopg.connect(postgres, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert [a.outcome for a in store.add([of("lost", 2)])] == ["added"]
    store.close()


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(str(tmp_path / "text.db"))
    with pytest.raises(UsageError, match="postgresql://"):
        open_store("mysql://x/y")
    SqliteStore(tmp_path / "new.db").close()
    connection = sqlite3.connect(tmp_path / "new.db")
    connection.execute("UPDATE facts SET value = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        open_store(str(tmp_path / "new.db"))


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg is not installed")
def test_a_server_that_does_not_answer_and_no_password_in_the_message():
    with pytest.raises(StoreError, match="failed") as raised:
        open_store("postgresql://tester:secret@127.0.0.1:1/postgres")
    assert "secret" not in str(raised.value)
