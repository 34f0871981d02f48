"""The years after the cut lived through under policies: `python -m benchmarks.replay --archives A --work W`.

ml-union-open by year from 2015, globo-news by day from 2017-10-07. A first model is trained on what was there before.
Each window is ranked by the model that serves then: up to 20 events of each user, from everything before them. When the
window has ended, the policy says whether a model is trained on all data up to its end, from nothing or from the one that
serves, in less time; it serves from the next window on. Policies: never, every window cold, every window warm, cold on
drift of the inputs, cold on regret, and by `ss4rec.loop.decide`. `RULES` has the settings of `[decide]` and of warm
trainings for each set.

Quality is the mean over windows of HR@10 (each user counts once in a window); regret is HR@10 of recent popularity, among
the model's items, less that of the model. Seconds are those of training and validation, one training at a time on a
card. What several policies train is trained once and counted for each. Reports need Ray; everything is kept in W, and
the same command goes on where it stopped. Several may run side by side on one W, each with a `--policy`, and each with a
card of its own (CUDA_VISIBLE_DEVICES); what one makes, the others wait for. `--ahead 0/2` and `--ahead 1/2` each make
half of the trainings from nothing. A last call with all policies finds everything made and writes the record. Small
machine: `--minutes 1 --preset debug --share 0.02`.

It writes `replay-<YYYYMMDD>.json` with `replay.*`, and W/SET/replay.html with table and picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.loop.growing import Growing, locked, once
from benchmarks.loop.policies import POLICIES, Policy
from benchmarks.loop.ranking import Ranking
from benchmarks.record import headline, write_record
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
from ss4rec.report import Line, charts, render, write_page
from ss4rec.runs.folder import RunFolder

METRICS = ("HR@10", "NDCG@10")
GOALS = {"globo": (0.97, 0.30), "union": (0.97, 0.50)}
"""Quality and cost of `by decide` as shares of those of training cold in every window."""


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


RULES = {
    # Warm, for the cost: with one training from nothing in eight a day's would be over 30 %. On 2026-11-27 the chain lost
    # from its second day on (docs/watch.md).
    "globo": Rules(DecideConfig(how="warm"), 300, 0.2, {}),
    # A year has 24 to 170 users, too few to show a fall: at the latest the year's end asks for a training. It takes all
    # windows, since new films need what is old beside them. One from nothing ends with its epochs, before its minutes.
    "union": Rules(DecideConfig(how="warm", max_age=1), 20, 0.3, {"train.replay_share": 1.0}),
}
TONES = ("muted", "s1", "s2", "s3", "s4", "s5")


@click.command(help=__doc__)
@click.option(
    "--archives", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of archives."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of what is kept.")
@click.option("--only", type=click.Choice(list(GOALS)), multiple=True, help="By default both.")
@click.option(
    "--policy", "names", type=click.Choice([p.name for p in POLICIES]), multiple=True, help="By default all."
)
@click.option("--minutes", default=4.0, show_default=True, help="Time of a training from nothing.")
@click.option(
    "--warm-share", type=float, help="Time of a warm one, as a share of it; by default that of RULES."
)
@click.option("--ahead", metavar="K/N", help="Only make part K (0 to N-1) of the trainings from nothing.")
@click.option("--windows", type=click.IntRange(min=2), help="Live through the first windows alone.")
@click.option("--share", default=1.0, show_default=True, help="Share of globo's users.")
@click.option("--preset", default="auto", show_default=True, help="Of the first model.")
@click.option("--users", default=2000, show_default=True, help="Users who are ranked for in a window.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    help="Processes that rank, and workers of a report (at least 2).",
)
@click.option("--address", help="Ray cluster.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    archives: Path,
    work: Path,
    only: tuple[str, ...],
    names: tuple[str, ...],
    minutes: float,
    warm_share: float | None,
    ahead: str | None,
    windows: int | None,
    share: float,
    preset: str,
    users: int,
    processes: int,
    address: str | None,
    out: Path,
) -> None:
    """Live through both sets."""
    from ss4rec.cluster.connect import cluster

    rows, found, rank = [], [], Ranking(processes)
    policies = [policy for policy in POLICIES if not names or policy.name in names]

    def join() -> None:
        stack.enter_context(cluster(address))

    with ExitStack() as stack:
        for name in only or tuple(GOALS):
            growing = Growing(
                name, archives.resolve(), work.resolve(), share if name == "globo" else 1.0, preset
            )
            rules = RULES[name] if warm_share is None else replace(RULES[name], warm_share=warm_share)
            life = Life(
                growing, minutes, rules, CompareConfig(users=users), windows, rank, max(2, processes), join
            )
            if ahead is not None:
                life.train_ahead(*(int(number) for number in ahead.split("/")))
                continue
            lived = {policy.name: life.live(policy) for policy in policies}
            table = [summary(name, policy, windows_) for policy, windows_ in lived.items()]
            write_page(growing.folder / "replay.html", page(growing.folder.name, table, lived))
            for row in table:
                print(json.dumps(row), flush=True)
            rows += table
            found += headlines(name, {row["policy"]: row for row in table})
    if not found:
        print(
            "no record: it needs `by decide` and `every window cold`; what was made is kept for the next call"
        )
        return
    print(write_record("replay", rows, found, out))


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


def summary(name: str, policy: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a policy cost and gave over all windows; the first training, which all have, is not counted."""
    trained = [row for row in rows if row["trained"]]
    found: dict[str, Any] = {"set": name, "policy": policy, "windows": len(rows)}
    found |= {
        metric: float(np.mean([row[metric] for row in rows])) for metric in (*METRICS, "regret", "unseen")
    }
    found |= {
        "trainings": len(trained),
        "warm": sum(row["trained"] == "warm" for row in trained),
        "seconds": round(sum(row["seconds"] for row in trained), 1),
    }
    return found | {
        "by_window": [{k: row[k] for k in ("window", "HR@10", "regret", "trained")} for row in rows]
    }


def headlines(name: str, by_policy: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return quality and cost of `by decide` as shares of those of training cold in every window."""
    if not {"by decide", "every window cold"} <= by_policy.keys():
        return []
    ours, cold = by_policy["by decide"], by_policy["every window cold"]
    quality_goal, cost_goal = GOALS[name]
    peer = "training cold in every window"
    quality, cost = ours["HR@10"] / cold["HR@10"], ours["seconds"] / cold["seconds"]
    return [
        headline(f"replay.{name}_quality_share", round(quality, 4), "", quality_goal, peer),
        headline(f"replay.{name}_cost_share", round(cost, 4), "", cost_goal, peer),
    ]


def page(
    name: str, table: Sequence[Mapping[str, Any]], lived: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Return table and picture."""
    lines = [
        Line(policy, [(float(n), row["HR@10"]) for n, row in enumerate(rows)], tone)
        for (policy, rows), tone in zip(lived.items(), TONES, strict=False)
    ]
    never = next((row for row in table if row["policy"] == "never"), None)
    return render(
        "benchmarks.loop",
        "replay.html.j2",
        name=name,
        chart=charts.lines("HR@10", "by window", lines),
        windows=[row["window"] for row in next(iter(lived.values()))],
        head=[
            "policy",
            "HR@10",
            "NDCG@10",
            "regret",
            "trainings",
            "warm",
            "seconds",
            "HR@10 gained in 1,000 s",
        ],
        rows=[_row(row, never) for row in table],
    )


def _row(row: Mapping[str, Any], never: Mapping[str, Any] | None) -> list[Any]:
    gained = ""
    if never is not None and row["seconds"]:
        gained = f"{1000 * (row['HR@10'] - never['HR@10']) / row['seconds']:+.4f}"
    figures = [f"{row[metric]:.4f}" for metric in (*METRICS, "regret")]
    return [row["policy"], *figures, row["trainings"], row["warm"], f"{row['seconds']:,.0f}", gained]


if __name__ == "__main__":
    main()
