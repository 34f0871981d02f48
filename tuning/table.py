"""The live table: best so far, what runs, what ended how, and how long it may still take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ss4rec.train.status import duration, say, say_panel
from tuning.space import Point, SearchSpace, Value
from tuning.study import FACTS

_STATES = {
    TrialState.COMPLETE: "ended",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "waiting",
    TrialState.WAITING: "waiting",
}


@dataclass
class _Row:
    state: str
    point: Point
    epoch: int = 0
    score: float | None = None
    began_s: float | None = None


@dataclass
class LiveTable:
    """Prints a table when a trial ends and at most every `every_s` in between; it is a `Listener`.

    Args:
        space: whose fields are shown.
        epochs: most epochs of a trial.
        total: trials of the sweep.
        concurrent: trials at a time.
        ends_at: time of `clock` at which the sweep is stopped, if there is one.
        every_s: least seconds between tables while trials only report.
        show: best trials that are listed.
        width: characters of a line; the report has every value.
    """

    space: SearchSpace
    epochs: int
    total: int
    concurrent: int
    ends_at: float | None = None
    every_s: float = 15.0
    show: int = 5
    width: int = 80
    emit: Callable[[str], None] = say
    emit_table: Callable[[Sequence[str]], None] = say_panel
    clock: Callable[[], float] = time.monotonic
    _rows: dict[int, _Row] = field(default_factory=dict)
    _taken_s: list[float] = field(default_factory=list)
    _news: bool = True

    def __post_init__(self) -> None:
        self._began_s = self._shown_s = self.clock()

    def known(self, trials: list[FrozenTrial]) -> None:
        """Take note of the trials of earlier attempts."""
        for trial in trials:
            if trial.state is TrialState.WAITING:
                continue
            facts = trial.user_attrs.get(FACTS, {})
            score = facts.get("best_score", max(trial.intermediate_values.values(), default=None))
            self._rows[trial.number] = _Row(_STATES[trial.state], trial.params, facts.get("epoch", 0), score)

    def __call__(self, number: int, result: Mapping[str, Any]) -> None:
        """Take note of a trial's newest result."""
        if "config" in result:
            self._rows[number] = _Row("running", self.space.read(result["config"]), began_s=self.clock())
            return
        row, self._news = self._rows[number], True
        row.state, row.epoch = result["state"], result.get("epoch", row.epoch)
        score = result.get("best_score", result.get("score"))
        if score is not None:
            row.score = score if row.score is None else max(row.score, score)
        if row.state in ("ended", "pruned", "failed"):
            if row.began_s is not None:
                self._taken_s.append(self.clock() - row.began_s)
                row.began_s = None
            if row.state == "failed":
                self.emit(f"trial {number} failed: {result.get('reason', '')}")
        if row.state in ("ended", "failed") or self.clock() - self._shown_s > self.every_s:
            self.print()

    def print(self) -> None:
        """Print the table now, unless nothing has happened since it was printed."""
        if not self._news:
            return
        self._shown_s, self._news = self.clock(), False
        count = Counter(row.state for row in self._rows.values())
        done = count["ended"] + count["pruned"] + count["failed"]
        head = (
            f"{done}/{self.total} trials done: {count['ended']} ended, {count['pruned']} pruned, "
            f"{count['failed']} failed; {count['running']} running; "
            f"{duration(self.clock() - self._began_s)}{self._left(self.total - done)}"
        )
        best = sorted(
            (number for number, row in self._rows.items() if row.state not in ("running", "waiting")),
            key=lambda number: (
                self._rows[number].state == "failed",
                -(self._rows[number].score or 0.0),
                number,
            ),
        )[: self.show]
        running = sorted(number for number, row in self._rows.items() if row.state == "running")
        self.emit_table([head, *map(self._line, best), *map(self._line, running)])

    def _left(self, trials: int) -> str:
        if not trials:
            return ""
        guess_s = (
            sum(self._taken_s) / len(self._taken_s) * trials / self.concurrent if self._taken_s else None
        )
        budget_s = None if self.ends_at is None else max(0.0, self.ends_at - self.clock())
        if budget_s is not None and (guess_s is None or budget_s < guess_s):
            return f", stops in {duration(budget_s)}"
        return "" if guess_s is None else f", about {duration(guess_s)} left"

    def _line(self, number: int) -> str:
        row = self._rows[number]
        score = "     -" if row.score is None else f"{row.score:.4f}"
        point = "  ".join(f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in row.point.items())
        line = f"  {number:>4}  {row.state:<7} epoch {row.epoch:>3}/{self.epochs}  NDCG@10 {score}  {point}"
        return line if len(line) <= self.width else f"{line[: self.width - 1]}…"


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
