"""Load on a server of this machine: half events, half lists, while models change and a replica is killed.

    python -m benchmarks.serve_load --runs runs/a runs/b --data data/ml-1m --out benchmarks/results

Requests come at fixed moments whether or not earlier ones are answered, and a request's time counts from its moment. The
model is changed twice, one replica is killed with signal 9 once; then everything is killed and started again, and
each acknowledged event is looked for. A client repeats a request once where a connection broke or a server error came,
as docs/serving.md tells clients to; `failed` are those that failed twice, `repeated` is said beside it. `cores` says what
the server's processes took (a killed one's share is lost), `client_cores` what the client took of the same cores.
`floor` has the same rate of `GET /health` before all that: HAProxy, Ray Serve and the web framework without a model.

A short slice: `--seconds 60 --users 100 --swaps 1 --no-kill --floor-seconds 0`.
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
    """Those moments, on the clock of `time.perf_counter`."""
    paths: list[str] = field(default_factory=list)
    answered_by: list[str] = field(default_factory=list)
    """The model of each answer."""
    deeds_s: dict[str, float] = field(default_factory=dict)
    """When each deed was done."""
    failed: list[str] = field(default_factory=list)
    repeated: int = 0
    acknowledged: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def times_ms(self) -> FloatArray:
        """Milliseconds from the moment of each request to its answer."""
        return 1e3 * np.array(self.seconds)


class Client:
    """Connections to one server that stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, path: str, body: Any, user: str) -> tuple[int, Any]:
        """Return status and answer; a request without a body is a GET."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-session-id: {user}\r\ncontent-type: application/json\r\n"
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
            status, answer = await asyncio.wait_for(client.ask(path, body, user), PATIENCE_S)
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            status, answer, problem = 0, {}, type(error).__name__
        if status == 200:
            now = time.perf_counter()
            seen.seconds.append(now - began)
            seen.at_s.append(began)
            seen.paths.append(path)
            seen.answered_by.append(answer.get("model", {}).get("name", ""))
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


Asked = tuple[str, Any, str]
"""Path, body and user of a request."""
Deed = tuple[float, str, Callable[[], None]]
"""Second, name, and what is done then."""


async def load(
    port: int, rate: float, seconds: float, draw: Callable[[int], Asked], deeds: list[Deed] | None = None
) -> Seen:
    """Send requests for so many seconds and do each deed at its second."""
    client, seen, coming = Client(port), Seen(), list(deeds or ())
    running: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        moment = began + number / rate
        while coming and moment - began >= coming[0][0]:
            _, what, deed = coming.pop(0)
            print(f"{moment - began:.0f} s: {what}", flush=True)
            seen.deeds_s[what] = moment
            deed()
        if (wait := moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(request(client, seen, moment, *draw(number)))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return seen


def events_and_questions(users: list[str], items: list[str]) -> Callable[[int], Asked]:
    """Return what draws requests: an event and a question in turns, of users at random."""
    chance, now_s = random.Random(0), int(time.time())

    def draw(number: int) -> Asked:
        user = chance.choice(users)
        if number % 2:
            return "/recommend", {"user": user, "k": 10, "at": "now"}, user
        item, time_s = chance.choice(items), now_s + number // 1000
        event = {"user": user, "item": item, "time": time_s, "id": f"load-{number}"}
        return "/events", {"events": [event]}, user

    return draw


def lost(store: Path, seen: Seen) -> int:
    """Return how many acknowledged events the store does not have."""
    opened = SqliteStore(store)
    found = opened.since({user: 0 for user, _, _ in seen.acknowledged})
    opened.close()
    kept = {(user, event.item, event.time_s) for user, events in found.items() for event in events}
    return len(set(seen.acknowledged) - kept)


def stale_users(server: Server, seen: Seen) -> int:
    """Return how many users' lists do not know their newest acknowledged event."""
    newest: dict[str, int] = {}
    for user, _, time_s in seen.acknowledged:
        newest[user] = max(newest.get(user, 0), time_s)
    return sum(
        server.call("/recommend", {"user": user}, user)["newest"] < last for user, last in newest.items()
    )


def changes(seen: Seen) -> dict[str, list[float]]:
    """Return for each change of the model the seconds until its first answer and until the last one of another model."""
    found = {}
    moments = np.array(seen.at_s) + np.array(seen.seconds)
    names = np.array(seen.answered_by)
    deeds = [(what, at) for what, at in seen.deeds_s.items() if "model" in what]
    for (what, at), (_, until) in zip(deeds, [*deeds, ("", np.inf)][1:], strict=True):
        inside = (moments > at) & (moments < until)
        new = inside & (names == what.split()[-1])
        old = inside & ~new
        if new.any() and old.any():
            found[what] = [round(float(end - at), 1) for end in (moments[new].min(), moments[old].max())]
    return found


def write_trace(seen: Seen, file: Path) -> None:
    """Write a line for each request, to look where the slow ones lie."""
    rows = zip(seen.at_s, seen.times_ms, seen.paths, seen.answered_by, strict=True)
    first = min(seen.at_s)
    lines = [f"{at - first:.3f}\t{ms:.2f}\t{path}\t{model}" for at, ms, path, model in sorted(rows)]
    file.write_text("second\tms\tpath\tmodel\n" + "\n".join(lines) + "\n")


def slow_by_tenth(times_ms: FloatArray, at_s: FloatArray, seconds: float) -> list[int]:
    """Return how many requests of each tenth of the time took longer than the goal: which deed it was that cost."""
    tenths = ((at_s - at_s.min()) / seconds * 10).astype(int).clip(0, 9)
    return [int(count) for count in np.bincount(tenths[times_ms > GOAL_MS], minlength=10)]


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
    parser.add_argument("--swaps", type=int, default=2, choices=(0, 1, 2), help="changes of the model")
    parser.add_argument("--no-kill", action="store_true", help="no replica is killed")
    parser.add_argument("--floor-seconds", type=float, default=20.0, help="of GET /health before the load")
    parser.add_argument("--no-ray", action="store_true", help="one process, no kill of a replica")
    parser.add_argument("--out", type=Path, help="folder of the record")
    parser.add_argument("--trace", type=Path, help="file for a line a request: second, ms, path, model")
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
    deeds: list[Deed] = [
        (options.seconds * 0.25, f"model {options.runs[1].name}", lambda: move(options.runs[1])),
        (options.seconds * 0.5, f"model {options.runs[0].name}", lambda: move(options.runs[0])),
    ][: options.swaps]
    if not (options.no_ray or options.no_kill):
        kill = lambda: os.kill(server.replicas()[0], signal.SIGKILL)  # noqa: E731
        deeds.append((options.seconds * 0.75, "a replica is killed", kill))
    floor = Seen()
    try:
        # States of users are made before the clock starts, as on a server that has been up for a while.
        for number, user in enumerate(users):
            server.call("/recommend", {"user": user, "k": 1}, user)
            if number % 100 == 0:
                print(f"states of {number} users are there", flush=True)
        if options.floor_seconds:
            health = lambda number: ("/health", None, users[number % len(users)])  # noqa: E731
            floor = asyncio.run(load(server.port, options.rate, options.floor_seconds, health))
        print("begin", flush=True)
        before, client_s = server.cpu_s(), time.process_time()
        draw = events_and_questions(users, items)
        seen = asyncio.run(load(server.port, options.rate, options.seconds, draw, deeds))
        after, client_s = server.cpu_s(), time.process_time() - client_s
    finally:
        server.kill_all()
    print(json.dumps({"load": figures(seen, options.seconds), "changes_s": changes(seen)}), flush=True)
    if options.trace:
        write_trace(seen, options.trace)
    again = Server(link, store, folder / "second.log", more)
    stale = stale_users(again, seen)
    again.kill_all()
    print((folder / "first.log").read_text()[-2000:], flush=True)
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
        **figures(seen, options.seconds),
        "floor": figures(floor, options.floor_seconds) if options.floor_seconds else None,
        "by_path": {
            path: percentiles(seen.times_ms[np.array(seen.paths) == path]) for path in set(seen.paths)
        },
        "changes_s": changes(seen),
        "client_cores": round(client_s / options.seconds, 3),
        "answers_by_model": dict(Counter(seen.answered_by)),
        "acknowledged_events": len(seen.acknowledged),
        "lost_events": lost(store, seen) + stale,
    }


def figures(seen: Seen, seconds: float) -> dict[str, Any]:
    """Return how long requests took, and how many failed."""
    times_ms = seen.times_ms
    return {
        **percentiles(times_ms),
        "over_goal": int((times_ms > GOAL_MS).sum()),
        "over_goal_by_tenth": slow_by_tenth(times_ms, np.array(seen.at_s), seconds),
        "failed": len(seen.failed),
        "failures": seen.failed[:5],
        "repeated": seen.repeated,
    }


def percentiles(times_ms: FloatArray) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest."""
    p50, p99, largest = np.percentile(times_ms, [50, 99, 100])
    return {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "largest_ms": round(float(largest), 1),
    }


if __name__ == "__main__":
    main()
