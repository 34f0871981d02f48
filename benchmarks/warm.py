"""Warm start against training from nothing on an increment: `python -m benchmarks.warm --archives A --work W`.

The year 2015 of ml-union-open and one day of globo-news. A first model is trained on everything before; then one from
nothing on everything with the increment, and one that goes on from the first, with a fifth of the time. Both are
compared on the year or day after it, which neither has seen: the same events, up to 20 of each user. Time is that of
training and validation (`Outcome.elapsed_s`), preparation left out for both.

The headline is of the defaults; `--setting` adds rows of other warm trainings, such as
`--setting "lr_share=0.3;train.warm_optimizer=continue"`. Everything is kept in W: the same command goes on where it stopped. For a small machine: `--minutes 2 --share 0.1
--preset demo` (a share of globo's users). It writes `warm-<YYYYMMDD>.json` with `warm.time_share` and `warm.quality_share`, the worse of
the two sets each.
"""

from __future__ import annotations

import itertools
import json
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from benchmarks.loop.growing import Growing, once
from benchmarks.loop.ranking import Ranking
from benchmarks.record import headline, write_record
from ss4rec.cli.options import assigned
from ss4rec.loop.compare import Gate, RankAll, gate_users, judge, paired, rank_gate
from ss4rec.loop.settings import CompareConfig

TIME_GOAL, QUALITY_GOAL = 0.25, 1.0
METRICS = ("NDCG@10", "HR@10")


@click.command(help=__doc__)
@click.option(
    "--archives", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of archives."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of what is kept.")
@click.option("--only", type=click.Choice(["union", "globo"]), multiple=True, help="By default both.")
@click.option("--minutes", default=4.0, show_default=True, help="Time of a training from nothing.")
@click.option("--time-share", default=0.2, show_default=True, help="Time of a warm one, as a share of it.")
@click.option("--share", default=1.0, show_default=True, help="Share of globo's users.")
@click.option(
    "--preset", default="auto", show_default=True, help="Of the first model; `debug` for a quick look."
)
@click.option("--seeds", default=1, show_default=True, help="Trainings of each, with train.seed counted up.")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="FIELD=V;FIELD=V",
    help="Warm trainings with these fields, too; `lr_share` is the learning rate as a share of the first model's, "
    "`time_share` as --time-share.",
)
@click.option("--processes", default=1, show_default=True, help="Processes that rank.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    archives: Path,
    work: Path,
    only: tuple[str, ...],
    minutes: float,
    time_share: float,
    share: float,
    preset: str,
    seeds: int,
    settings: tuple[str, ...],
    processes: int,
    out: Path,
) -> None:
    """Measure both sets."""
    rows, rank = [], Ranking(processes)
    for name in only or ("union", "globo"):
        growing = Growing(name, archives.resolve(), work.resolve(), share if name == "globo" else 1.0, preset)
        for seed, setting in itertools.product(range(seeds), ("", *settings)):
            changes, part = parsed(setting, time_share)
            mark = f"{minutes:g}min-{part:g}-{seed}-{sha256(setting.encode()).hexdigest()[:8]}"
            kept = growing.runs / "warm-rows" / f"{mark}.json"
            row = once(kept, partial(measure, growing, minutes, part, seed, changes, rank))
            row |= {"setting": setting}
            print(json.dumps(row), flush=True)
            rows.append(row)
    plain = [row for row in rows if not row["setting"]]
    by_set = {name: [row for row in plain if row["set"] == name] for name in {row["set"] for row in plain}}
    time = max(_mean(found, "time_share") for found in by_set.values())
    quality = min(_mean(found, "quality_share") for found in by_set.values())
    peer = "training from nothing on the same data"
    found = [
        headline("warm.time_share", round(time, 4), "", TIME_GOAL, peer),
        headline("warm.quality_share", round(quality, 4), "", QUALITY_GOAL, peer),
    ]
    print(write_record("warm", rows, found, out))


def parsed(setting: str, time_share: float) -> tuple[dict[str, Any], float]:
    """Return the fields of a setting, and the share of time of its warm training."""
    changes = assigned(text for text in setting.split(";") if text)
    return changes, float(changes.pop("time_share", time_share))


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows) / len(rows))


def measure(
    growing: Growing,
    minutes: float,
    time_share: float,
    seed: int,
    changes: dict[str, Any],
    rank: RankAll | None = None,
) -> dict[str, Any]:
    """Train the three models of one set and compare the last two."""
    increment, after = growing.windows()[:2]
    seeded = {"train.seed": 2020 + seed}
    first, _ = growing.trained(increment.start_s - 1, "cold", minutes, changes=seeded)
    cold, cold_s = growing.trained(increment.end_s - 1, "cold", minutes, first, seeded)
    warm, warm_s = growing.trained(increment.end_s - 1, "warm", minutes * time_share, first, seeded | changes)
    timeline = growing.timeline(increment.end_s - 1)
    gate = Gate(after.start_s, after.end_s)
    row: dict[str, Any] = {
        "set": growing.folder.name,
        "increment": increment.name,
        "gate": after.name,
        "seed": seed,
    }
    row |= {
        "changes": changes,
        "minutes": minutes,
        "cold_s": cold_s,
        "warm_s": warm_s,
        "time_share": warm_s / cold_s,
    }
    config = CompareConfig(users=4000)
    users = gate_users(timeline, gate, config)
    tables = {
        run: rank_gate(run, timeline, gate, users, config, increment.start_s - 1, rank=rank)
        for run in (first, cold, warm)
    }
    for metric in METRICS:
        chosen = config.model_copy(update={"metric": metric})
        against_cold = judge(paired(tables[cold], tables[warm]), chosen).rows
        against_old = judge(paired(tables[first], tables[warm]), chosen).rows
        row[metric] = {
            "old": against_old[0].champion,
            "cold": against_cold[0].champion,
            "warm": against_cold[0].challenger,
            "low": against_cold[0].low,
            "high": against_cold[0].high,
            "users": against_cold[0].users,
            "groups": {g.group: [g.champion, g.challenger, g.users] for g in against_cold[1:]},
        }
    row["quality_share"] = row["NDCG@10"]["warm"] / row["NDCG@10"]["cold"]
    return row


if __name__ == "__main__":
    main()
