"""Times device work by itself: what the host needs (Python, autograd, launches) stays out of the figure.

Calls rotate through several sets of inputs, so that the L2 cache does not serve them. First choice is a CUDA graph of
many calls. Forward, backward and capture must then run on one side stream (`side_stream`), since autograd waits for the
stream on which a leaf was first used, and nothing outside a capture may be waited for inside it. Where a call cannot be
captured, the same calls are queued behind a device-side sleep between two events; that the host was done
queueing before the sleep ended is checked, and the method is part of the result.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Calls = Sequence[Callable[[], Any]]
ROUNDS = 7
ROUND_MS = 25.0
"""Device time of one round, of which the median is taken."""
MOST_QUEUED = 16
"""Calls queued behind a sleep: the driver takes about 1,000 launches before the host has to wait."""
SM_HZ = 2.0e9
"""At least the card's clock; a sleep is given in its cycles."""


@dataclass(frozen=True)
class Timing:
    """Time of one call."""

    ms: float
    """Median over the rounds."""
    spread: float
    """(slowest - fastest round) / median."""
    method: str
    """How it was taken."""


@contextmanager
def side_stream() -> Iterator[None]:
    """Make a side stream current, so that what is run, and later captured, never touches the default stream."""
    if not torch.cuda.is_available():
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def time_calls(calls: Calls, round_ms: float = ROUND_MS) -> Timing:
    """Return the time of one call, in turn over `calls`, which do the same on different inputs.

    Runs on the current stream of the current device (a side stream, see `side_stream`); without CUDA by the host's
    clock. No result of an earlier call may be alive: its graph holds leaves to the stream that they were used on.
    """
    for call in calls:  # compiles, loads modules and fills caches
        call()
    if not torch.cuda.is_available():
        return _by_host_clock(calls)
    estimate_ms = _behind_sleep(calls, len(calls), rounds=2).ms
    count = max(len(calls), min(200, round(round_ms / max(estimate_ms, 1e-3))))
    try:
        return _by_graph(calls, count)
    except RuntimeError as error:  # torch.AcceleratorError is one
        torch.cuda.synchronize()
        reason = " ".join(str(error).split())[:120]
        timing = _behind_sleep(calls, min(count, MOST_QUEUED), ROUNDS)
        return Timing(timing.ms, timing.spread, f"{timing.method}; no graph: {reason}")


def _by_graph(calls: Calls, count: int) -> Timing:
    """Capture `count` calls and time replays."""
    graph, turn = torch.cuda.CUDAGraph(), itertools.cycle(calls)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(count):
            next(turn)()
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        start, end = _events()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / count)
    graph.reset()
    return _summary(times, "CUDA graph")


def _behind_sleep(calls: Calls, count: int, rounds: int) -> Timing:
    """Queue `count` calls behind a sleep of the device and time them between events."""
    turn, times, ahead, sleep_s = itertools.cycle(calls), [], True, 0.0
    for attempt in range(-1, rounds):  # the first only measures how long the host needs
        torch.cuda.synchronize()
        start, end = _events()
        torch.cuda._sleep(int(sleep_s * SM_HZ))
        start.record()
        began = time.perf_counter()
        for _ in range(count):
            next(turn)()
        end.record()
        host_s = time.perf_counter() - began
        if attempt >= 0:
            ahead = ahead and not start.query()
        end.synchronize()
        sleep_s = max(sleep_s, 1.5 * host_s + 0.002)
        if attempt >= 0:
            times.append(start.elapsed_time(end) / count)
    return _summary(times, "events behind a device sleep" + ("" if ahead else ", host not ahead"))


def _by_host_clock(calls: Calls) -> Timing:
    """Time each call once by the host's clock (no CUDA device: a smoke test)."""
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return _summary(times, "host clock")


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _summary(times: Sequence[float], method: str) -> Timing:
    median = statistics.median(times)
    return Timing(median, (max(times) - min(times)) / median, method)


def elapsed_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Return the milliseconds from before a call until the device has done its work, host included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - began)
