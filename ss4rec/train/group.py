"""The group of training processes, seen from one of them; a single process needs no process group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This process's place among `world` workers, and the few collective operations that training needs.

    Every method is a collective: all workers call it, in the same order.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is worker 0, which writes files and speaks for the group."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add `tensor` over all workers, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_into(self, whole: Tensor, own: Tensor) -> None:
        """Write every worker's `own` (of one size) into `whole`, one after the other by rank."""
        if self.world == 1:
            whole.copy_(own)
        else:
            dist.all_gather_into_tensor(whole, own)

    def from_main(self, value: Any) -> Any:
        """Return worker 0's `value` (small, plain data) on every worker."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's `value` (small, plain data) on every worker, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for all workers."""
        self.sum_(torch.zeros(1, device=self.device))
