"""Brings packed batches to the device ahead of the step that uses them, and measures how long the step waited."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ss4rec.data.batches.batch import PackedBatch
from ss4rec.model.segments import Segments
from ss4rec.train.fixed_shapes import BatchShape, Stager, StepInputs

_END = object()
_NAMED_USERS = 5
"""Users of a batch that a message about it names."""


@dataclass(frozen=True)
class DeviceBatch:
    """A batch on the device, with its place in the order."""

    epoch: int
    step: int
    first_users: list[int]
    num_targets: int
    inputs: StepInputs
    words_W: Tensor | None = None
    """All of `inputs` in one row, if it is filled up to a fixed shape."""
    shape: BatchShape | None = None


class HostWaits:
    """Adds up the time that the host spends inside `with`: on a CPU that is what the device waits, too."""

    def __init__(self) -> None:
        self._total_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._total_s += time.perf_counter() - self._began

    def take_s(self) -> float:
        """Return the seconds since the last call."""
        total_s, self._total_s = self._total_s, 0.0
        return total_s


class DeviceWaits:
    """Adds up the time that the GPU has nothing to do while the host is inside `with`.

    The host runs ahead of the GPU, so time that it waits for a batch costs nothing as long as steps are queued. An
    event recorded at either side tells when the GPU got there: right after one another while it is busy with earlier
    steps, as long apart as it idled otherwise.
    """

    def __init__(self) -> None:
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._passed_ms = 0.0

    def __enter__(self) -> None:
        self._began = _timed_event()

    def __exit__(self, *error: object) -> None:
        self._pairs.append((self._began, _timed_event()))
        while self._pairs and self._pairs[0][1].query():  # however long a run is silent, few are kept
            self._pass()

    def take_s(self) -> float:
        """Return the seconds since the last call; waits for the GPU."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
        while self._pairs:
            self._pass()
        passed_ms, self._passed_ms = self._passed_ms, 0.0
        return passed_ms / 1e3

    def _pass(self) -> None:
        began, ended = self._pairs.popleft()
        self._passed_ms += began.elapsed_time(ended)


def _timed_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Prefetcher:
    """Iterates over `batches` on a thread of its own; copies to CUDA use a side stream.

    Args:
        batches: `(epoch, step, batch)` in order; closed when iteration ends early.
        device: where tensors go.
        stager: fills batches up to fixed shapes in page-locked memory; None takes them as they are.
        depth: batches that may wait on the device. A source that shuffles whole groups of shards gives nothing for
            some tens of milliseconds where a group begins; a step of a small model takes five.
    """

    def __init__(
        self,
        batches: Iterable[tuple[int, int, PackedBatch]],
        device: torch.device,
        stager: Stager | None = None,
        depth: int = 16,
    ) -> None:
        self._batches = batches
        self._device = device
        self._stager = stager
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._waits = DeviceWaits() if device.type == "cuda" else HostWaits()
        self._stopped = threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)

    def __iter__(self) -> Generator[DeviceBatch, None, None]:
        self._thread.start()
        try:
            while True:
                with self._waits:
                    item = self._ready.get()
                    if item is _END:
                        return
                    if isinstance(item, BaseException):
                        raise item
                    batch, copied = item
                    if copied is not None:
                        self._claim(batch, copied)
                yield batch
        finally:
            self.close()

    def waited_s(self) -> float:
        """Return the seconds since the last call in which the device had nothing to do for want of data."""
        return self._waits.take_s()

    def close(self) -> None:
        """Stop the thread and close the source."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def _produce(self) -> None:
        iterator = iter(self._batches)
        try:
            for epoch, step, batch in iterator:
                self._ready.put(self._to_device(epoch, step, batch))
                if self._stopped.is_set():
                    return
            self._ready.put(_END)
        except BaseException as error:  # handed to the consumer, which raises it in the training thread
            self._ready.put(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _to_device(
        self, epoch: int, step: int, batch: PackedBatch
    ) -> tuple[DeviceBatch, torch.cuda.Event | None]:
        """Copy a batch to the device; return it with the event after which it is there, None on a CPU."""
        place = (epoch, step, batch.users_S[:_NAMED_USERS].tolist(), batch.num_targets)
        if self._stream is None:
            return DeviceBatch(*place, StepInputs.of(batch, Segments(batch.offsets_S1, self._device))), None
        with torch.cuda.stream(self._stream):
            if self._stager is None:
                segments = Segments(batch.offsets_S1, self._device)
                segments.offsets_S1  # noqa: B018 - copied now, on this stream
                moved = DeviceBatch(*place, StepInputs.of(batch.to(self._device), segments))
            else:
                shape = self._stager.shape(batch)
                host_W = torch.empty(shape.words, dtype=torch.int32, pin_memory=True)
                self._stager.fill(batch, shape, host_W)
                words_W = host_W.to(self._device, non_blocking=True)
                moved = DeviceBatch(*place, self._stager.views(words_W, shape), words_W, shape)
            return moved, self._stream.record_event()

    @staticmethod
    def _claim(batch: DeviceBatch, copied: torch.cuda.Event) -> None:
        """Make the training stream wait for the copy, and tell the allocator that it uses the memory."""
        current = torch.cuda.current_stream()
        current.wait_event(copied)
        for tensor in batch.inputs.tensors():
            tensor.record_stream(current)
