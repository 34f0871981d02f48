"""Load on a server of this machine: half events, half lists, while models change and a replica is killed.

    python -m benchmarks.serve_load --runs runs/a runs/b --data data/ml-1m --out benchmarks/results

Requests come at fixed moments whether or not earlier ones are answered, and a request's time counts from its moment. The
model is changed twice, one replica is killed with signal 9 once; then everything is killed and started again, and
each acknowledged event is looked for. A client repeats a request once where a connection broke or a server error came,
as docs/serving.md tells clients to (`cores` says what the server took; a killed process's share is lost); `failed` are those that failed twice, `repeated` is said beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import headline, write_record
from benchmarks.serve_process import Server
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.serve.history import import_histories
from ss4rec.serve.sqlite import SqliteStore

FloatArray = npt.NDArray[np.float64]
AGAIN_S = 0.05
"""Pause before a request is sent again."""
PATIENCE_S = 10.0
"""After which a request has failed."""
GOAL_MS = 50.0


@dataclass
class Seen:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    """From the moment of each request to its answer."""
    at_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    repeated: int = 0
    acknowledged: list[tuple[str, str, int]] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)


class Client:
    """Connections to one server that stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: Any, user: str) -> tuple[int, Any]:
        """Return status and answer."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-session-id: {user}\r\ncontent-type: application/json\r\n"
        reader, writer = self._open() or await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            text = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        self._free.append((reader, writer))
        return int(lines[0].split()[1]), json.loads(text)

    def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection that the other side has not closed, if there is one."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    def forget(self) -> None:
        """Close what is open and idle: one broken connection says that others may be."""
        while self._free:
            self._free.pop()[1].close()


async def request(client: Client, seen: Seen, began: float, path: str, body: Any, user: str) -> None:
    """Send one request, once more if that meets a broken connection or an error of the server."""
    problem = ""
    for attempt in (1, 2):
        try:
            status, answer = await asyncio.wait_for(client.post(path, body, user), PATIENCE_S)
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            status, answer, problem = 0, {}, type(error).__name__
        if status == 200:
            now = time.perf_counter()
            seen.seconds.append(now - began)
            seen.at_s.append(began)
            seen.models[answer["model"]["name"]] += 1
            if path == "/events":
                seen.acknowledged += [(e["user"], e["item"], e["time"]) for e in body["events"]]
            return
        problem = f"{status} {answer.get('error', problem) if isinstance(answer, dict) else answer}"
        if 400 <= status < 500:
            break
        if attempt == 1:
            seen.repeated += 1
            client.forget()
            await asyncio.sleep(AGAIN_S)
    seen.failed.append(f"{path}: {problem}")


async def load(
    port: int,
    users: list[str],
    items: list[str],
    rate: float,
    seconds: float,
    deeds: list[tuple[float, str, Callable[[], None]]],
) -> Seen:
    """Send requests for so many seconds and do each deed at its second."""
    client, seen, draw = Client(port), Seen(), random.Random(0)
    now_s = int(time.time())
    running: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        moment = began + number / rate
        while deeds and moment - began >= deeds[0][0]:
            _, what, deed = deeds.pop(0)
            print(f"{moment - began:.0f} s: {what}", flush=True)
            deed()
        if (wait := moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        user = draw.choice(users)
        if number % 2:
            path, body = "/recommend", {"user": user, "k": 10, "at": "now"}
        else:
            event = {
                "user": user,
                "item": draw.choice(items),
                "time": now_s + number // 1000,
                "id": f"load-{number}",
            }
            path, body = "/events", {"events": [event]}
        task = asyncio.create_task(request(client, seen, moment, path, body, user))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return seen


def lost(store: Path, seen: Seen) -> int:
    """Return how many acknowledged events the store does not have."""
    opened = SqliteStore(store)
    found = opened.since({user: 0 for user, _, _ in seen.acknowledged})
    opened.close()
    kept = {(user, event.item, event.time_s) for user, events in found.items() for event in events}
    return len(set(seen.acknowledged) - kept)


def slow_by_tenth(times_ms: FloatArray, at_s: FloatArray, seconds: float) -> list[int]:
    """Return how many requests of each tenth of the time took longer than the goal: which deed it was that cost."""
    tenths = ((at_s - at_s.min()) / seconds * 10).astype(int).clip(0, 9)
    return np.bincount(tenths[times_ms > GOAL_MS], minlength=10).tolist()


def main() -> None:
    """Measure, print, and write a record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, nargs=2, required=True, help="two runs on the same data")
    parser.add_argument("--data", type=Path, required=True, help="their prepared folder, whose users ask")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--users", type=int, default=500, help="users who ask")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--precision", default="full")
    parser.add_argument("--own-proxy", action="store_true", help="Ray's own proxy in the place of HAProxy")
    parser.add_argument("--no-ray", action="store_true", help="one process, no kill of a replica")
    parser.add_argument("--out", type=Path, help="folder of the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-load-") as name:
        row = measure(options, Path(name))
    print(json.dumps(row, indent=2))
    if options.out:
        headlines = [
            headline("serve.p99_ms_at_200rps", row["p99_ms"], "ms", GOAL_MS),
            headline("serve.failed_requests", row["failed"], "requests", 0),
            headline("serve.lost_events", row["lost_events"], "events", 0),
        ]
        print(write_record("serve_load", [row], headlines, options.out))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the whole and return its figures."""
    data = PreparedFolder.open(options.data)
    users = [str(user) for user in data.users["source_id"].to_pylist()]
    random.Random(1).shuffle(users)
    users = users[: options.users]
    items = [str(item) for item in data.items["source_id"].to_pylist()]
    store, link = folder / "events.db", folder / "current"
    opened = SqliteStore(store)
    import_histories(data, opened)
    opened.close()
    link.symlink_to(options.runs[0].resolve())

    def move(run: Path) -> None:
        (folder / "next").symlink_to(run.resolve())
        os.replace(folder / "next", link)

    more = ["--look-every", "1", "--precision", options.precision]
    if options.no_ray:
        more += ["--no-ray"]
    else:
        share = min(1.0, 0.9 * (os.cpu_count() or 1) / options.replicas)
        more += ["--replicas", str(options.replicas), "--cpus-per-replica", f"{share:.2f}"]
        more += [] if options.own_proxy else ["--haproxy"]
    server = Server(link, store, folder / "first.log", more)
    deeds: list[tuple[float, str, Callable[[], None]]] = [
        (options.seconds * 0.25, "another model", lambda: move(options.runs[1])),
        (options.seconds * 0.5, "the first model again", lambda: move(options.runs[0])),
    ]
    if not options.no_ray:
        kill = lambda: os.kill(server.replicas()[0], signal.SIGKILL)  # noqa: E731
        deeds.append((options.seconds * 0.75, "a replica is killed", kill))
    try:
        # States of users are made before the clock starts, as on a server that has been up for a while.
        for user in users:
            server.call("/recommend", {"user": user, "k": 1}, user)
        before, client_s = server.cpu_s(), time.process_time()
        seen = asyncio.run(load(server.port, users, items, options.rate, options.seconds, deeds))
        after, client_s = server.cpu_s(), time.process_time() - client_s
    finally:
        server.kill_all()
    again = Server(link, store, folder / "second.log", more)
    newest: dict[str, int] = {}
    for user, _, time_s in seen.acknowledged:
        newest[user] = max(newest.get(user, 0), time_s)
    stale = sum(
        again.call("/recommend", {"user": user}, user)["newest"] < last for user, last in newest.items()
    )
    again.kill_all()
    times_ms = 1e3 * np.array(seen.seconds)
    return {
        "requests": int(options.rate * options.seconds),
        "cores": {
            name: round(share, 3)
            for name, now in after.items()
            if (share := (now - before.get(name, 0.0)) / options.seconds) > 0.005
        },
        "rate": options.rate,
        "seconds": options.seconds,
        "users": len(users),
        "proxy": "none" if options.no_ray else "Ray" if options.own_proxy else "HAProxy",
        "replicas": 0 if options.no_ray else options.replicas,
        "cpus": os.cpu_count(),
        "p50_ms": round(float(np.percentile(times_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 2),
        "largest_ms": round(float(times_ms.max()), 1),
        "over_goal": int((times_ms > GOAL_MS).sum()),
        "over_goal_by_tenth": slow_by_tenth(times_ms, np.array(seen.at_s), options.seconds),
        "client_cores": round(client_s / options.seconds, 3),
        "failed": len(seen.failed),
        "failures": seen.failed[:5],
        "repeated": seen.repeated,
        "answers_by_model": dict(seen.models),
        "acknowledged_events": len(seen.acknowledged),
        "lost_events": lost(store, seen) + stale,
    }


if __name__ == "__main__":
    main()
