"""Does the gate let the right ones through? `python -m benchmarks.promote --archives A --work W`.

A champion is trained on ML-1M up to the end of November 2000; December decides, up to 20 events of each of some 1,200
users. (A day of globo-news has 38,000 users, but a model finds so few of their events that a gain of 5 % is only about
two standard errors.) Each round draws users anew (with replacement) and asks `ss4rec.loop.compare.judge`, 100 rounds of
each challenger:

  noise      the champion with noise in its weights, drawn anew each round (a fraction of each tensor's deviation)
  shuffled   a model of the same recipe, trained on the same events with their items shuffled
  better     a model of another seed whose ranks are lifted until its NDCG@10 is 5 % above the champion's: at random
             events a miss becomes a hit (or the other way round), anew each round

`promote.wrong` counts promotions of the first two, `promote.right_share` the share of the third. Trainings and rounds are
kept in W: the same command goes on where it stopped. Several may run side by side on one W, each with a `--only`; a last
call without it finds all rounds made and writes the record. Small machine: `--minutes 1 --preset debug`.
It writes `promote-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

from benchmarks.loop.growing import SETS, Growing, once, one_on_a_card
from benchmarks.loop.ranking import Ranking
from benchmarks.record import headline, write_record
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.split import PAST
from ss4rec.evaluation.evaluator import PerUser
from ss4rec.evaluation.segments import metric_gains
from ss4rec.io.atomic import new_folder
from ss4rec.loop.compare import Gate, RankAll, gate_users, judge, paired, rank_gate
from ss4rec.loop.settings import CompareConfig
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.train.worker import train_alone

GAIN, WRONG_GOAL, RIGHT_GOAL = 0.05, 0, 0.9
CHALLENGERS = ("noise", "shuffled", "better")
Frame = pd.DataFrame


@click.command(help=__doc__)
@click.option(
    "--archives", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of archives."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of what is kept.")
@click.option("--set", "name", type=click.Choice(list(SETS)), default="ml-1m", show_default=True)
@click.option("--share", default=1.0, show_default=True, help="Share of the users.")
@click.option("--preset", default="auto", show_default=True)
@click.option("--minutes", default=4.0, show_default=True, help="Time of a training.")
@click.option(
    "--only", type=click.Choice(CHALLENGERS), help="Make the rounds of this challenger alone; no record."
)
@click.option("--rounds", default=100, show_default=True, help="Of each challenger.")
@click.option("--users", default=4000, show_default=True, help="Users drawn in a round.")
@click.option("--processes", default=1, show_default=True, help="Processes that rank.")
@click.option("--noise", default=0.5, show_default=True, help="In deviations of each tensor.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    archives: Path,
    work: Path,
    name: str,
    share: float,
    preset: str,
    minutes: float,
    only: str | None,
    rounds: int,
    users: int,
    processes: int,
    noise: float,
    out: Path,
) -> None:
    """Simulate rounds of each challenger."""
    growing = Growing(name, archives.resolve(), work.resolve(), share, preset)
    stage = Stage(growing, minutes, CompareConfig(users=2**31 - 1), Ranking(processes))
    makers: dict[str, Callable[[int], Frame]] = {
        "noise": lambda seed: stage.noisy(seed, noise, users),
        "shuffled": lambda seed: stage.drawn(stage.shuffled(), seed, users),
        "better": lambda seed: lift(stage.drawn(stage.other(), seed, users), GAIN, seed),
    }
    rows = [stage.rounds(one, rounds, users, make) for one, make in makers.items() if only in (None, one)]
    for row in rows:
        print(json.dumps(row))
    if only is not None:
        return
    noise_row, shuffled_row, better_row = rows
    right = better_row["promoted"] / rounds
    found = [
        headline("promote.wrong", noise_row["promoted"] + shuffled_row["promoted"], "", WRONG_GOAL),
        headline("promote.right_share", right, "", RIGHT_GOAL),
    ]
    print(write_record("promote", rows, found, out))


class Stage:
    """The champion, its day, and what stands against it.

    Args:
        growing: the data.
        minutes: time of a training.
        config: of the comparison; all users of the day are ranked once.
        rank: who ranks.
    """

    def __init__(self, growing: Growing, minutes: float, config: CompareConfig, rank: RankAll) -> None:
        self.growing, self.minutes, self.config, self.rank = growing, minutes, config, rank
        day = growing.windows()[0]
        self.cut_s, self.gate = day.start_s - 1, Gate(day.start_s, day.end_s)
        self.champion, _ = growing.trained(self.cut_s, "cold", minutes, changes={"train.seed": 1})
        self.timeline = growing.timeline(self.cut_s)
        self.users = gate_users(self.timeline, self.gate, config)
        self._pairs: dict[str, Frame] = {}

    @cached_property
    def first(self) -> Any:
        """The champion's ranks; not made where all rounds are kept."""
        return self._ranked(self.champion)

    def _ranked(self, run: Path, users: np.ndarray | None = None) -> Any:
        users = self.users if users is None else users
        return rank_gate(run, self.timeline, self.gate, users, self.config, self.cut_s, rank=self.rank)

    def other(self) -> Frame:
        """Return the pairs with a model of another seed."""
        if "other" not in self._pairs:
            run, _ = self.growing.trained(self.cut_s, "cold", self.minutes, self.champion, {"train.seed": 2})
            self._pairs["other"] = paired(self.first, self._ranked(run))
        return self._pairs["other"]

    def shuffled(self) -> Frame:
        """Return the pairs with a model that was trained on shuffled items."""
        if "shuffled" not in self._pairs:
            self._pairs["shuffled"] = paired(self.first, self._ranked(self._train_shuffled()))
        return self._pairs["shuffled"]

    def _train_shuffled(self) -> Path:
        folder = PreparedFolder.open(self.growing.cut(self.cut_s) / PAST)
        data, run = self.growing.folder / f"shuffled-{self.cut_s}", self.growing.runs / "shuffled"
        if not data.exists():
            events = folder.sequences()
            items_E = np.random.default_rng(0).permutation(events.items_E)
            with new_folder(data) as draft:
                write_prepared(
                    draft / "past",
                    replace(events, items_E=items_E),
                    name="shuffled",
                    filters=folder.manifest.filters,
                    rows_dropped={},
                    source=folder.manifest.source,
                    rows_per_shard=folder.manifest.shards[0].rows,
                    features=folder.manifest.features,
                )
        config = RunFolder.open(self.champion).config()
        with one_on_a_card(self.growing.work):
            train_alone(
                config, data / "past", run, torch.device("cuda" if torch.cuda.is_available() else "cpu")
            )
        return run

    def noisy(self, seed: int, noise: float, count: int) -> Frame:
        """Return the pairs with the champion whose weights have noise in them, for users drawn anew."""
        rng = torch.Generator().manual_seed(seed)
        best = checkpoint.best(RunFolder(self.champion).checkpoints)
        tensors = best.model_tensors()
        for name, tensor in tensors.items():
            if tensor.numel() > 1 and not name.endswith("attributes_VA"):
                tensors[name] = tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=rng)
        # A folder for each: ranking processes keep the model of a path.
        run = _with_weights(self.champion, self.growing.runs / f"noise-{seed}", tensors)
        drawn = np.random.default_rng(seed).choice(self.users, min(count, len(self.users)), replace=False)
        users = np.sort(drawn)
        kept = self.first.to_pandas()
        first = kept[kept["user"].isin(set(users.tolist()))]
        pairs = paired(_table(first), self._ranked(run, users))
        shutil.rmtree(run)
        return self.drawn(pairs, seed, count)

    def drawn(self, events: Frame, seed: int, count: int) -> Frame:
        """Return the events of users drawn with replacement, each under a number of its own; at most as many as are."""
        rng = np.random.default_rng([seed, 1])
        ids = events["user"].unique()
        count = min(count, len(ids))
        table = pd.DataFrame({"user": rng.choice(ids, count), "new": np.arange(count)})
        found = table.merge(events, on="user")
        return found.assign(user=found["new"]).drop(columns="new")

    def rounds(self, name: str, rounds: int, users: int, make: Any) -> dict[str, Any]:
        """Judge a challenger in every round."""
        folder = self.growing.runs / "promote" / f"{name}-{users}-{self.minutes:g}min"

        def judged(seed: int) -> dict[str, Any]:
            found = judge(make(seed), self.config.model_copy(update={"seed": seed}))
            overall = found.rows[0]
            return {"promote": found.promote, "reason": found.reason, "gain": overall.gain,
                    "champion": overall.champion}  # fmt: skip

        kept = []
        for seed in range(rounds):
            kept.append(once(folder / f"{seed}.json", partial(judged, seed)))
            print(f"{name}, round {seed + 1} of {rounds}: {kept[-1]['reason']}", flush=True)
        gains, reasons = [one["gain"] for one in kept], [one["reason"] for one in kept]
        return {
            "challenger": name,
            "rounds": rounds,
            "users": users,
            "promoted": sum(one["promote"] for one in kept),
            "guarded": sum("but worse for" in reason for reason in reasons),
            "gain_mean": float(np.mean(gains)),
            "gain_low": float(np.min(gains)),
            "gain_high": float(np.max(gains)),
            "champion": kept[0]["champion"],
            "example": reasons[0],
        }


def _table(frame: Frame) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def _with_weights(run: Path, out: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Return a copy of a run with other weights."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoints", "lease.json"))
    best = checkpoint.best(RunFolder(run).checkpoints)
    state = {name: value for name, value in best.state.items() if name != "format"}
    checkpoint.save(out / "checkpoints", model=tensors, training=best.training_tensors(), state=state)
    return out


def lift(events: Frame, gain: float, seed: int) -> Frame:
    """Return the events with the challenger's ranks changed until its NDCG@10 is `gain` above the champion's.

    At random events a miss becomes a hit, at a rank that the champion's hits have; or, if the challenger is too good, a
    hit becomes a miss.
    """
    rng = np.random.default_rng([seed, 2])
    users = PerUser(events["user"].to_numpy())

    def value(ranks: np.ndarray) -> float:
        return float(users.mean(metric_gains("NDCG@10", ranks)).mean())

    first, second = events["first"].to_numpy(), events["second"].to_numpy().copy()
    goal = (1 + gain) * value(first)
    hits = first[first <= 10]
    up = value(second) < goal
    places = rng.permutation(np.flatnonzero((second > 10) if up else (second <= 10)))
    news = rng.choice(hits, len(places)) if up else np.full(len(places), np.inf)
    low, high = 0, len(places)
    while high - low > 1:
        middle = (low + high) // 2
        changed = second.copy()
        changed[places[:middle]] = news[:middle]
        low, high = (middle, high) if (value(changed) < goal) == up else (low, middle)
    second[places[:low]] = news[:low]
    return events.assign(second=second)


if __name__ == "__main__":
    main()
