"""Who may write a run folder: one attempt at a time, the second is refused.

`RUN/lease.json` names the attempt (a random id), its process, and the one writer of that attempt. Two mechanisms:

- `hold` is taken by the process that starts the training. It refuses while another attempt is alive: on the same
  machine that is a process that still exists, elsewhere a lease whose file was touched in the last EXPIRES_S
  seconds (times of the file server itself are compared, so clocks need not agree).
- `Writer` is claimed by the worker that writes checkpoints and asks before each one whether it is still the writer.
  So a worker of a dead driver or of a lost node, which nobody can end, can no longer write.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ss4rec.errors import LeaseError
from ss4rec.io.atomic import write_whole
from ss4rec.io.untrusted import read_json

LEASE_FILE = "lease.json"
BEAT_S, EXPIRES_S = 10.0, 60.0


class Holder(BaseModel):
    """The content of `lease.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: str
    """Random id of the attempt."""
    machine: str
    """Host name and boot of the process that holds it."""
    pid: int
    born: int
    """When that process started, in clock ticks since boot: a process id may come again."""
    writer: str = ""
    """Random id of the worker that may write."""


@contextmanager
def hold(
    run_dir: Path,
    *,
    beat_s: float = BEAT_S,
    expires_s: float = EXPIRES_S,
    say: Callable[[str], None] = print,
) -> Iterator[str]:
    """Hold a run folder for the length of the block; yields the attempt's id.

    Waits up to `expires_s` for a holder on another machine to show that it is alive.

    Raises:
        LeaseError: if another attempt is alive.
    """
    path = run_dir / LEASE_FILE
    run_dir.mkdir(parents=True, exist_ok=True)
    _wait_for_death(path, expires_s, say)
    mine = Holder(
        attempt=uuid.uuid4().hex[:12], machine=_machine(), pid=os.getpid(), born=_born(os.getpid()) or 0
    )
    _write(path, mine)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, mine.attempt, beat_s, ended), name="lease", daemon=True)
    beat.start()
    try:
        yield mine.attempt
    finally:
        ended.set()
        beat.join()
        if (found := _read(path)) is not None and found.attempt == mine.attempt:
            path.unlink(missing_ok=True)


class Writer:
    """The one worker that may write on behalf of an attempt.

    Args:
        run_dir: the run folder.
        attempt: what `hold` yielded in the process that started the training.

    Raises:
        LeaseError: if another attempt holds the folder.
    """

    def __init__(self, run_dir: Path, attempt: str) -> None:
        self.path, self.attempt, self.name = run_dir / LEASE_FILE, attempt, uuid.uuid4().hex[:12]
        found = self._found()
        _write(self.path, found.model_copy(update={"writer": self.name}))

    def check(self) -> None:
        """Return if this worker is still the writer.

        Raises:
            LeaseError: naming who took over.
        """
        found = self._found()
        if found.writer != self.name:
            raise LeaseError(
                f"another worker ({found.writer}) of attempt {self.attempt} writes {self.path.parent} now; "
                "this one was given up for lost and stops"
            )

    def _found(self) -> Holder:
        found = _read(self.path)
        if found is None or found.attempt != self.attempt:
            who = f"attempt {found.attempt} on {_host(found)}" if found else "nobody"
            raise LeaseError(
                f"{self.path.parent} is held by {who} now, no longer by attempt {self.attempt}; this one stops "
                "and writes nothing"
            )
        return found


def has_writer(run_dir: Path) -> bool:
    """Return whether a worker writes this run: training has begun and has not ended."""
    found = _read(run_dir / LEASE_FILE)
    return found is not None and bool(found.writer)


def _wait_for_death(path: Path, expires_s: float, say: Callable[[str], None]) -> None:
    """Return when nobody holds `path`; refuse a holder that lives."""
    first_seen, told = None, False
    while (holder := _read(path)) is not None:
        if holder.machine == _machine():
            if _born(holder.pid) != holder.born:
                return
            raise _refusal(path, holder, f"process {holder.pid} runs")
        age_s, touched = file_age_s(path)
        if age_s > expires_s:
            return
        if first_seen is not None and touched != first_seen:
            raise _refusal(path, holder, f"it was alive {age_s:.0f} s ago")
        if not told:
            say(
                f"{path.parent} was held by attempt {holder.attempt} on {_host(holder)} {age_s:.0f} s ago; "
                "waiting for a sign of life"
            )
            told = True
        first_seen = touched
        time.sleep(min(1.0, expires_s / 10))


def _refusal(path: Path, holder: Holder, sign: str) -> LeaseError:
    return LeaseError(
        f"{path.parent} is being written by attempt {holder.attempt} on {_host(holder)} ({sign}); two writers would "
        "destroy each other's checkpoints. Stop that one first, or choose another --name"
    )


def file_age_s(path: Path) -> tuple[float, int]:
    """Return the seconds since `path` was touched by the file server's own clock (infinity if there is none), and its
    time stamp.
    """
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    probe.touch()
    try:
        touched = path.stat().st_mtime_ns
        return (probe.stat().st_mtime_ns - touched) / 1e9, touched
    except FileNotFoundError:  # let go in this moment
        return float("inf"), 0
    finally:
        probe.unlink()


def _beat(path: Path, attempt: str, beat_s: float, ended: threading.Event) -> None:
    """Touch the lease until the end, or until it is another's."""
    while not ended.wait(beat_s):
        found = _read(path)
        if found is None or found.attempt != attempt:
            return
        with suppress(OSError):  # storage that is away for a moment; the next beat tries again
            os.utime(path)


def _read(path: Path) -> Holder | None:
    """Return who holds the folder; a lease that cannot be read is nobody's (it is written whole or not at all)."""
    try:
        return Holder.model_validate(read_json(path))
    except (OSError, ValueError, ValidationError):
        return None


def _write(path: Path, holder: Holder) -> None:
    text = json.dumps(holder.model_dump(), indent=2) + "\n"
    write_whole(path, text.encode(), durable=True)


def _host(holder: Holder) -> str:
    return f"{holder.machine.split('/')[0]}, process {holder.pid}"


def _machine() -> str:
    """Return host name and boot id; two containers of one kernel differ in the name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def _born(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is none (zombies do not count)."""
    try:
        fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
