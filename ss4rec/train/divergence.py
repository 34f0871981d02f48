"""Sees a loss that climbs far above its best, which no number says while it is finite.

A rate that is too high for a width or a depth ends in garbage without a word: the loss falls for some epochs, then
climbs back to that of a model that knows nothing but how popular items are, and stays there.
"""

from __future__ import annotations

from dataclasses import dataclass

LOST_SHARE = 0.35
"""Share of what was learned (first loss less best loss) that may be lost again."""
PATIENCE = 2
"""Looks in a row that must find the loss that high."""
MOST_RETURNS = 3
"""Times that a training goes back to a checkpoint with half of the rate."""
LOWER = 0.5


@dataclass
class Course:
    """Mean losses of the stretches of steps between two looks.

    Args:
        uniform: loss of a model that finds all items equally likely. A warm start begins far below it, and what it
            may lose again is measured from there.
        first: loss of the first stretch, or `uniform` if that is higher; None before the first stretch.
        best: lowest loss of a stretch.
        high: looks in a row with a loss far above it.
    """

    uniform: float = 0.0
    first: float | None = None
    best: float = float("inf")
    high: int = 0

    def diverged(self, loss: float) -> bool:
        """Take note of the mean loss of a stretch; return whether training has lost what it had learned."""
        self.first = max(loss, self.uniform) if self.first is None else self.first
        self.best = min(self.best, loss)
        margin = LOST_SHARE * (self.first - self.best)
        self.high = self.high + 1 if margin > 0 and loss > self.best + margin else 0
        return self.high >= PATIENCE

    def again(self) -> None:
        """Go on from a checkpoint: what was seen stays, the count of high losses begins anew."""
        self.high = 0


class ClimbedError(Exception):
    """The loss has climbed far above its best; the loop answers, nobody else sees it.

    Args:
        loss: mean loss of the last stretch.
    """

    def __init__(self, loss: float) -> None:
        super().__init__(loss)
        self.loss = loss
