"""States of many users made in a process of its own, which gets what the cores have left, and never quite nothing.

A thread cannot do this beside requests: it holds Python's lock and torch's. The process leaves states in the file of
`KeptStates`; whoever answers takes them up from there, and takes in by single steps what came since. Killed anywhere,
it goes on where it was, since what it made is in the file.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import subprocess  # nosec B404 - runs this module
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ss4rec.io.kept_memory import keep_freed_memory
from ss4rec.serve.open_store import open_store

logger = logging.getLogger(__name__)
BATCH_USERS = 16
"""Users whose states are made and kept together; more are no cheaper each."""
LAST_PASS_S = 2.0
"""A pass takes in what came during the one before; after one as short as this, whoever answers does the rest."""
MOST_PASSES = 2
"""On a busy machine a pass may never be that short; whoever answers does the rest after so many."""
TRIES = 2
"""Starts of the process before whoever answers makes the states itself."""
LOOK_S = 0.1
PATIENCE_S = 10.0
"""So long it may get next to nothing before it takes a small claim: a machine that is always busy has nothing left."""
LEAST_SHARE = 0.02
"""Of a core; less is next to nothing."""
BUSY_NICENESS = 10
"""The small claim: a tenth of what another process gets."""
PR_SET_PDEATHSIG = 1


class Order(BaseModel):
    """What a process is to make."""

    run: str
    """Run folder of the model."""
    precision: Literal["full", "bf16", "int8"]
    store: str
    """As `ServeSettings.store`."""
    states: str
    """File of `KeptStates`, where states go."""
    store_id: str
    most: int
    """See `KeptStates`."""
    users: list[str]
    parent: int
    """Process that asks for it; this one ends with it."""


def make_states(order: Order, stop: threading.Event) -> bool:
    """Have the states of some users made; returns whether they are there.

    Args:
        order: what to make.
        stop: ends it early.
    """
    for _ in range(TRIES):
        process = subprocess.Popen(  # nosec B603
            [sys.executable, "-m", "ss4rec.serve.warm"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            said = _hand_over(process, order, stop)
        finally:
            process.kill()
            process.wait()
        if stop.is_set() or process.returncode == 0:
            return process.returncode == 0
        logger.warning("the process that makes states ended with %d: %s", process.returncode, said[-500:])
    return False


def _hand_over(process: subprocess.Popen[bytes], order: Order, stop: threading.Event) -> str:
    """Wait for the end of a process; returns what it said."""
    data: bytes | None = order.model_dump_json().encode()
    while not stop.is_set():
        try:
            return process.communicate(data, LOOK_S)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            data = None
    return ""


def main() -> None:
    """Do what an order on standard input says."""
    order = Order.model_validate_json(sys.stdin.read())
    _end_with(order.parent)
    # Opening takes the store's lock for a moment, which a process without a claim to a core must not hold.
    store = open_store(order.store)
    _be_last()
    with _alone(Path(order.states)):
        # Imported here: torch alone takes seconds.
        import torch

        from ss4rec.serve.kept_states import KeptStates
        from ss4rec.serve.served_model import load_served
        from ss4rec.serve.service import Service

        torch.set_num_threads(1)
        keep_freed_memory()
        kept = KeptStates(Path(order.states), order.store_id, order.most)
        # Leaves recorded graphs too, for whoever asked for this.
        model = load_served(Path(order.run), order.precision, graphs=kept.graphs)
        service = Service(store, model, BATCH_USERS, kept)
        for _ in range(MOST_PASSES):
            began = time.monotonic()
            for users in _batches(order.users):
                service.warm(users)
                service.save_states()
            if time.monotonic() - began < LAST_PASS_S:
                break
        service.close()


def _batches(users: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(users), BATCH_USERS):
        yield users[first : first + BATCH_USERS]


@contextmanager
def _alone(states: Path) -> Iterator[None]:
    """Wait for another process that fills the same file: what it makes need not be made twice."""
    with states.with_name(states.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _be_last() -> None:
    """Leave the cores to whoever else wants them, but for a twentieth of one if nothing else is ever left over."""
    os.nice(BUSY_NICENESS)
    if sys.platform == "linux":
        # Started first: a thread begins with the claim of the one that starts it.
        worker = threading.get_native_id()
        threading.Thread(target=_not_starved, args=(worker,), daemon=True).start()
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _not_starved(worker: int, patience_s: float = PATIENCE_S) -> None:
    """Take a thread out of the idle class once this process got next to nothing for `patience_s`."""
    got_s = patience_s
    while got_s > LEAST_SHARE * patience_s:
        before = time.process_time()
        time.sleep(patience_s)
        got_s = time.process_time() - before
    os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))


def _end_with(parent: int) -> None:
    """End when the process that gave the order ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which wanted these states, has ended")


if __name__ == "__main__":
    main()
