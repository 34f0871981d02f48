"""A data set lived through window by window: who serves, how good it is, what a report says, what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.loop.growing import Growing, locked, once
from benchmarks.loop.policies import Policy
from drift.calendar import Window, lookback
from drift.config import DriftConfig
from drift.report.contents import Report
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import split
from ss4rec.evaluation.evaluator import PerUser
from ss4rec.evaluation.segments import metric_gains
from ss4rec.io.atomic import new_folder
from ss4rec.loop.compare import Gate, RankAll, gate_users, rank_gate
from ss4rec.loop.decide import State, Training
from ss4rec.loop.settings import CompareConfig, DecideConfig, How
from ss4rec.runs.folder import RunFolder

METRICS = ("HR@10", "NDCG@10")


@dataclass(frozen=True)
class Rules:
    """How `by decide` looks and decides on a set, and how warm trainings are made there."""

    decide: DecideConfig
    min_users: int
    """Users of a window from which a report decides."""
    warm_share: float
    """Time of a warm training, as a share of one from nothing."""
    changes: Mapping[str, Any]
    """Fields of a warm training."""


@dataclass(frozen=True)
class Life:
    """One data set, window by window.

    Args:
        growing: the data.
        minutes: time of a training from nothing.
        rules: of reports, decisions and warm trainings.
        config: who is ranked for.
        count: windows to live through; None: all.
        rank: who ranks.
        workers: of a report.
        join: joins Ray for all reports; called before each that is not made yet.
    """

    growing: Growing
    minutes: float
    rules: Rules
    config: CompareConfig
    count: int | None = None
    rank: RankAll | None = None
    workers: int = 2
    join: Callable[[], None] = lambda: None

    def live(self, policy: Policy) -> list[dict[str, Any]]:
        """Return a row for each window."""
        windows = self.growing.windows()[: self.count]
        run, seconds = self.growing.trained(windows[0].start_s - 1, "cold", self.minutes)
        rows: list[dict[str, Any]] = []
        trainings: list[Training] = []
        since = 0
        for number, window in enumerate(windows):
            row = {"window": window.name, "run": run.name} | self.quality(run, window)
            since += 1
            how = None
            if number + 1 < len(windows):
                state = State(ended_windows=number + 1, champion_age=since, trainings=tuple(trainings))
                look = partial(self.report, run, window)
                how = policy.choose(look, state, self.rules.decide)
            seconds = 0.0
            if how is not None:
                run, seconds = self.trained(window, how, run)
                trainings.append(Training(number + 1, how, True))
                since = 0
            rows.append(row | {"trained": how, "seconds": seconds})
            print(
                f"{self.growing.folder.name}, {policy.name}, {window.name}: {row['HR@10']:.4f} {how or ''}",
                flush=True,
            )
        return rows

    def trained(self, window: Window, how: How, parent: Path) -> tuple[Path, float]:
        """Return a run on everything up to the end of a window, and its seconds."""
        end_s, rules = window.end_s - 1, self.rules
        if how == "cold":
            return self.growing.trained(end_s, how, self.minutes, parent)
        return self.growing.trained(end_s, how, self.minutes * rules.warm_share, parent, dict(rules.changes))

    def train_ahead(self, part: int, parts: int) -> None:
        """Make part `part` of `parts` of the trainings from nothing, and rank the next window with each."""
        windows = self.growing.windows()[: self.count]
        first, _ = self.growing.trained(windows[0].start_s - 1, "cold", self.minutes)
        for before, after in list(pairwise(windows))[part::parts]:
            run, seconds = self.trained(before, "cold", first)
            found = self.quality(run, after)["HR@10"]
            print(
                f"{self.growing.folder.name}, {after.name}, cold in {seconds:.1f} s: {found:.4f}", flush=True
            )

    def report_ahead(self, chain: str, part: int, parts: int) -> None:
        """Make part `part` of `parts` of the reports on the champions of a chain: `never`, `cold` or `warm`.

        Policies would ask for one after the other.
        """
        windows = self.growing.windows()[: self.count]
        run, _ = self.growing.trained(windows[0].start_s - 1, "cold", self.minutes)
        for number, window in enumerate(windows[:-1]):
            if number % parts == part:
                self.report(run, window)
                print(f"{self.growing.folder.name}, {chain}, report on {window.name}", flush=True)
            if chain != "never" and number + 2 < len(windows):
                run, _ = self.trained(window, "cold" if chain == "cold" else "warm", run)

    def quality(self, run: Path, window: Window) -> dict[str, Any]:
        """Rank the window's events with a run; kept."""
        path = self.growing.runs / "quality" / run.name / f"{window.name}-{self.config.users}.json"
        found: dict[str, Any] = once(path, lambda: self._quality(run, window))
        return found

    def _quality(self, run: Path, window: Window) -> dict[str, Any]:
        cut_s = RunFolder.open(run).record().cut_s
        assert cut_s is not None
        timeline, gate = self.growing.timeline(cut_s), Gate(window.start_s, window.end_s)
        users = gate_users(timeline, gate, self.config)
        recent_V = self._recent(timeline, window)
        table = rank_gate(run, timeline, gate, users, self.config, cut_s, recent_V, self.rank)
        by_user = PerUser(table["user"].to_numpy())

        def mean(metric: str, column: str) -> float:
            return float(by_user.mean(metric_gains(metric, table[column].to_numpy())).mean())

        found = {metric: mean(metric, "rank") for metric in METRICS}
        popular = mean("HR@10", "popular")
        return found | {
            "popular": popular,
            "regret": popular - found["HR@10"],
            "unseen": float(by_user.mean(table["unseen"].to_numpy().astype(float)).mean()),
            "users": by_user.num_users,
            "events": table.num_rows,
        }

    def _recent(self, timeline: PreparedFolder, window: Window) -> npt.NDArray[np.int64]:
        """Count the events of each item in the windows before one (`drift.calendar.LOOKBACK`)."""
        kind = self.growing.about.window
        length_s = window.end_s - window.start_s
        first_s = window.start_s - lookback(kind) * length_s
        counts_V = np.zeros(timeline.manifest.items + 1, np.int64)
        for path in timeline.shard_paths:
            shard = read_shard(path, timeline.manifest.items)
            items_E, times_E = ragged(shard["items"])[0], ragged(shard["timestamps"])[0]
            inside = (times_E >= first_s) & (times_E < window.start_s)
            counts_V += np.bincount(items_E[inside], minlength=len(counts_V))
        return counts_V

    def report(self, run: Path, window: Window) -> Report:
        """Return the report on everything from the run's cut to the end of a window; kept. Nothing later is there."""
        out = self.growing.runs / "reports" / run.name / window.name
        with locked(out):
            self._report(out, run, window)
        return Report.load(out)

    def _report(self, out: Path, run: Path, window: Window) -> None:
        from drift.job import run_drift

        if not (out / "report.json").exists():
            cut_s = RunFolder.open(run).record().cut_s
            assert cut_s is not None
            self.join()
            with new_folder(out) as draft:
                split(self._until(window), draft / "data", cut_s, k_core=self.growing.about.k_core)
                run_drift(draft / "data", run, draft, self._drift_config())
                _remove(draft / "data")

    def _until(self, window: Window) -> Path:
        """Return the data as they were when a window had ended."""
        out = self.growing.folder / "until" / window.name
        whole = self.growing.whole()
        with locked(out):
            self._write_until(out, whole, window)
        return out / "data"

    @staticmethod
    def _write_until(out: Path, whole: PreparedFolder, window: Window) -> None:
        if not out.exists():
            events = whole.sequences()
            # The first event after a window says that it has ended; a day without it would not be a whole one.
            later_E = events.times_E[events.times_E >= window.end_s]
            known_s = int(later_E.min()) if len(later_E) else window.end_s
            with new_folder(out) as draft:
                write_prepared(
                    draft / "data",
                    events.select(events.times_E <= known_s),
                    name=whole.manifest.name,
                    source=whole.manifest.source,
                    filters=whole.manifest.filters,
                    rows_dropped={},
                    rows_per_shard=whole.manifest.shards[0].rows,
                    features=whole.manifest.features,
                )

    def _drift_config(self) -> DriftConfig:
        return DriftConfig(
            window=self.growing.about.window,
            anchor="calendar",
            min_users=self.rules.min_users,
            workers=self.workers,
            wandb="disabled",
            alibi=(),
        )


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
