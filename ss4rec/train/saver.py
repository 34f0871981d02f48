"""Writes checkpoints beside the training: a step waits for the copy to the host, not for the disk.

On a GPU the copy goes into page-locked memory behind the kernels that are queued; a thread waits for it, writes and
flushes the files and prunes old ones. One checkpoint is written at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ss4rec.errors import SS4RecError

MOST_LOCKED = 4 << 30
"""Bytes of page-locked memory at most; what is beyond it is copied while the step waits."""


class HostCopy:
    """Copies tensors into host memory that is kept for the next time.

    `ready` must have returned before a copy is read; the next copy overwrites it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._locked_bytes = 0
        self._copied: torch.cuda.Event | None = None

    def __call__(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return copies by name; `prefix` tells tensors of one name apart."""
        copies = {name: self._copy(prefix + name, tensor.detach()) for name, tensor in tensors.items()}
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event()
            self._copied.record()
        return copies

    def ready(self) -> None:
        """Wait until the copies are there."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            locked = tensor.is_cuda and self._locked_bytes + tensor.nbytes <= MOST_LOCKED
            self._locked_bytes += tensor.nbytes if locked else 0
            kept = self._kept[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=locked)
        kept.copy_(tensor, non_blocking=True)
        return kept


class Saver:
    """Runs one piece of work at a time in a thread; what it raises is raised in the thread that asks."""

    def __init__(self) -> None:
        self.copy = HostCopy()
        """What the work reads; overwritten by the next."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; call `wait` first, since what it reads may still be needed."""
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Raise what the last work raised, if it has ended; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the last work to end, and raise what it raised, once."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def finish(self, say: Callable[[str], None]) -> None:
        """Wait, and only say what an expected error was: the one that ends training is on its way up."""
        try:
            self.wait()
        except SS4RecError as error:
            say(f"warning: {error}")

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # is raised where the work was asked for
            self._error = error
