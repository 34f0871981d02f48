"""Sees a loss that climbs far above its best, which no number says while it is finite.

A rate that is too high for a width or a depth ends in garbage without a word: the loss falls for some epochs, then
climbs back to that of a model that knows nothing but how popular items are, and stays there.
"""

from __future__ import annotations

from dataclasses import dataclass

LOST_SHARE = 0.35
"""Share of what was learned (first loss less best loss) that may be lost again."""
LEAST_CLIMB = 0.1
"""Share of the best loss below which no climb counts: a warm start has learned before its first stretch, and loses a
little while its rate rises."""
PATIENCE = 2
"""Looks in a row that must find the loss that high."""
MOST_RETURNS = 3
"""Times that a training goes back to a checkpoint with half of the rate."""
LOWER = 0.5


@dataclass
class Course:
    """Mean losses of the stretches of steps between two looks.

    Args:
        first: loss of the first stretch; None before it.
        best: lowest loss of a stretch.
        high: looks in a row with a loss far above it.
    """

    first: float | None = None
    best: float = float("inf")
    high: int = 0

    def diverged(self, loss: float) -> bool:
        """Take note of the mean loss of a stretch; return whether training has lost what it had learned."""
        self.first = loss if self.first is None else self.first
        self.best = min(self.best, loss)
        lost, least = LOST_SHARE * (self.first - self.best), LEAST_CLIMB * self.best
        self.high = self.high + 1 if lost > 0 and loss > self.best + max(lost, least) else 0
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
