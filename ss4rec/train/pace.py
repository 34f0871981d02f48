"""How long a training is: the epochs that were asked for, or as many as the time allows, and a schedule that ends then.

A clock that cuts a training off leaves a third of its learning rate unused, and what the last third of a cosine
schedule is worth with it. So where `train.fit_minutes` is set, the speed of the first epochs decides how many there
will be, and the schedule ends with them.
"""

from __future__ import annotations

import math

from ss4rec.config import OptimConfig, TrainConfig
from ss4rec.train.optim import lr_share

FIRST_SHARE, MARK_SHARE, RECENT_SHARE = 0.12, 0.05, 0.25
"""Shares of the time: before the first plan; between two marks of the clock; over which speed is measured."""
LATE, EARLY = 1.03, 0.93
"""A plan that would end this much too late is made anew, shorter; one that would end this early, longer."""
GROWS_UNTIL = 0.75
"""Share of the steps after which a plan grows no more: the schedule is too far down."""
WARM_START_WARMUP = 50
"""Most steps of warm-up of a warm start: its weights are trained, and it has few steps."""


def planned_epochs(train: TrainConfig) -> int:
    """Return the most epochs of a training; of a warm start a share (`train.warm_share`), at least one."""
    return max(1, math.ceil(_share(train) * train.epochs))


def planned_minutes(train: TrainConfig) -> float:
    """Return the minutes of a training; of a warm start a share; 0 has no limit."""
    return _share(train) * train.max_minutes


def _share(train: TrainConfig) -> float:
    return train.warm_share if train.start_from else 1.0


class Pace:
    """Steps of a training and where its learning rate stands.

    Args:
        train: the loop's configuration.
        optim: the schedule.
        steps_per_epoch: steps of an epoch.
    """

    def __init__(self, train: TrainConfig, optim: OptimConfig, steps_per_epoch: int) -> None:
        self.train, self.optim, self.steps_per_epoch = train, optim, steps_per_epoch
        self.total_steps = self.most_steps = planned_epochs(train) * steps_per_epoch
        self.planned = False
        """Whether the time has decided the number of steps."""
        self._told = self.total_steps
        self._marks: list[tuple[int, float]] = []
        """Step and time of some moments, the oldest first."""

    @property
    def epochs(self) -> int:
        """Epochs that are planned; the last may be cut short."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def done(self, global_step: int) -> bool:
        """Whether the last step is taken."""
        return global_step >= self.total_steps

    def look(self, global_step: int, elapsed_s: float, first_step: int) -> int | None:
        """Return a new number of steps, if what is left does not fit into the time; else None.

        Args:
            global_step: steps taken.
            elapsed_s: seconds of training and validation so far, over all attempts.
            first_step: `global_step` when this process began, whose first steps compile.
        """
        budget_s = 60 * planned_minutes(self.train)
        if not (self.train.fit_minutes and budget_s) or self.done(global_step):
            return None
        if global_step < first_step + 2:
            return None
        if not self._marks or elapsed_s - self._marks[-1][1] >= MARK_SHARE * budget_s:
            self._marks.append((global_step, elapsed_s))
        while len(self._marks) > 1 and elapsed_s - self._marks[1][1] >= RECENT_SHARE * budget_s:
            del self._marks[0]
        step, at_s = self._marks[0]
        if elapsed_s < FIRST_SHARE * budget_s or elapsed_s - at_s < MARK_SHARE * budget_s / 2:
            return None
        step_s = (elapsed_s - at_s) / (global_step - step)
        fits = max(global_step + 1, global_step + int((budget_s - elapsed_s) / step_s))
        end_s = elapsed_s + (self.total_steps - global_step) * step_s
        grows = self.planned and global_step < GROWS_UNTIL * self.total_steps and end_s < EARLY * budget_s
        if not (grows or end_s > LATE * budget_s):
            return None
        plan = min(max(self._rounded(fits), global_step + 1), self.most_steps)
        return plan if plan != self.total_steps else None

    def plan(self, total_steps: int) -> bool:
        """Take another plan, all workers the same; return whether it differs by a sixth from what was told last."""
        self.total_steps, self.planned = total_steps, True
        news = abs(total_steps - self._told) > self._told / 6
        if news:
            self._told = total_steps
        return news

    def lr(self, global_step: int) -> float:
        """Return the learning rate of a step (from 0): linear warm-up, then constant or cosine.

        The warm-up takes a fifth of a short training, and at most `WARM_START_WARMUP` steps of one that starts warm.
        """
        optim = self.optim
        warmup = optim.warmup_steps
        if self.train.fit_minutes:
            warmup = min(warmup, self.total_steps // 5)
        if self.train.start_from:
            warmup = min(warmup, WARM_START_WARMUP)
        return optim.lr * lr_share(
            global_step,
            total_steps=self.total_steps,
            config=optim.model_copy(update={"warmup_steps": warmup}),
        )

    def _rounded(self, steps: int) -> int:
        """Round down to quarters of epochs, many of them to a coarse scale: machines of a kind get the same plan."""
        epochs = steps // self.steps_per_epoch
        if epochs < 8:
            quarter = max(1, self.steps_per_epoch // 4)
            return max(steps // quarter * quarter, min(steps, quarter))
        grain = 2 ** (epochs.bit_length() - 4)
        return int((epochs - epochs % grain) * self.steps_per_epoch)
