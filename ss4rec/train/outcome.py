"""How a training ended, and what it remembers of its last steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    epochs: int
    global_step: int
    best_epoch: int
    """From 1; 0 if there was no validation, or if a warm start's first weights were the best."""
    best_score: float
    """Validation NDCG@10 of the best epoch."""
    ended: str
    """Why training ended, in words."""
    elapsed_s: float
    """Seconds of training and validation, over all attempts."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class StepNote:
    """What is remembered of a step, to name the users of a bad one."""

    epoch: int
    step: int
    global_step: int
    first_users: list[int]
    own_loss: Tensor
    """This worker's own loss sum, on the device."""
