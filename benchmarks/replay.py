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
half of the trainings from nothing, `--reports warm:0/2` half of the reports on a chain of warm ones. A last call with
all policies finds everything made and writes the record. Small machine: `--minutes 1 --preset debug --share 0.02`.

It writes `replay-<YYYYMMDD>.json` with `replay.*`, and W/SET/replay.html with table and picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.loop.growing import Growing
from benchmarks.loop.life import METRICS, Life, Rules
from benchmarks.loop.policies import POLICIES
from benchmarks.loop.ranking import Ranking
from benchmarks.record import headline, write_record
from ss4rec.loop.settings import CompareConfig, DecideConfig
from ss4rec.report import Line, charts, render, write_page
from ss4rec.report.axis import Axis
from ss4rec.report.parts import Frame

GOALS = {"globo": (0.97, 0.30), "union": (0.97, 0.50)}
"""Quality and cost of `by decide` as shares of those of training cold in every window."""


RULES = {
    # Warm, for the cost: a fifth of the minutes, though the first days from nothing end with their epochs before.
    "globo": Rules(DecideConfig(how="warm"), 300, 0.2, {"train.replay_share": 0.3}),
    # A year has 24 to 170 users, too few to show a fall: at the latest the year's end asks for a training. It takes all
    # windows, since new films need what is old beside them. One from nothing ends with its epochs, before its minutes.
    "union": Rules(DecideConfig(how="warm", max_age=1), 20, 0.3, {"train.replay_share": 1.0}),
}
CHAINS = ("never", "cold", "warm")
"""Chains of champions whose reports can be made ahead."""
WIDE = Frame(width=700, height=260)
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
@click.option(
    "--reports", metavar="CHAIN:K/N", help="Only make part K of the reports of a chain: never, cold or warm."
)
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
    reports: str | None,
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
                life.train_ahead(*_part(ahead))
                continue
            if reports is not None:
                chain, _, part = reports.partition(":")
                if chain not in CHAINS:
                    raise click.BadParameter(f"no chain {chain!r}; chains: {', '.join(CHAINS)}")
                life.report_ahead(chain, *_part(part))
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


def _part(text: str) -> tuple[int, int]:
    part, parts = text.split("/")
    return int(part), int(parts)


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
    windows = [row["window"] for row in next(iter(lived.values()))]
    return render(
        "benchmarks.loop",
        "replay.html.j2",
        name=name,
        chart=charts.lines("HR@10", "by window", lines, x=Axis.of(windows), frame=WIDE),
        windows=windows,
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
