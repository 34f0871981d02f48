"""Early stopping on a score that should rise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStopping:
    """Counts validations without a new best score.

    Args:
        patience: validations without a better score before `should_stop`; 0 never stops.
    """

    patience: int
    best: float = -math.inf
    best_epoch: int = -1
    waited: int = 0

    def update(self, score: float, epoch: int) -> bool:
        """Take note of a validation; return whether it is the best so far."""
        if score > self.best:
            self.best, self.best_epoch, self.waited = score, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.waited

    def state(self) -> dict[str, Any]:
        """Return plain data for a checkpoint; -inf is written as null, which JSON knows."""
        return {**asdict(self), "best": None if self.best == -math.inf else self.best}

    @classmethod
    def restore(cls, state: dict[str, Any], patience: int) -> EarlyStopping:
        """Rebuild from `state()`, with the patience of the present configuration."""
        best = -math.inf if state["best"] is None else state["best"]
        return cls(patience, best, state["best_epoch"], state["waited"])
