"""Champion and challenger on the same later events: who is better, for whom, and whether the challenger may serve.

Both rank the same events of the same users, each among the items that it knows; an item that a model does not know is a
miss of that model. All events lie behind both cuts, so neither has learned from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy.sparse import csr_matrix

from drift.calendar import Window
from drift.model.names import MODEL, ROLLING
from drift.model.rank import Baselines, RankTask, rank_shard
from drift.model.retrained import remap
from drift.model.sample import draws
from drift.model.targets import TargetChoice
from ss4rec.data.batches.windows import ragged
from ss4rec.data.ids import stable_keys
from ss4rec.data.prepared.event_columns import chosen_targets
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_items, read_shard
from ss4rec.errors import UsageError
from ss4rec.evaluation.evaluator import PerUser
from ss4rec.evaluation.segments import metric_gains
from ss4rec.evaluation.significance import Difference, compare_gains
from ss4rec.io.paths import AnyPath
from ss4rec.loop.settings import CompareConfig
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model

GUARDED = ("known items", "known users", "new users")
"""Groups in which a loss forbids a promotion: items and users that the champion knows, and users that it does not."""
ALL = "all"
POWER_FACTOR = 1.645 + 0.842
"""Standard errors of the smallest gain that is found at 5 %, one-sided, in 80 of 100 cases."""
BoolArray = npt.NDArray[np.bool_]
RankAll = Callable[[Sequence[AnyPath], Path, RankTask], pa.Table | None]
"""Ranks with a run what a task chooses from shards; rows in order of shards (`drift.model.rank.rank_shard`)."""


@dataclass(frozen=True)
class Gate:
    """The events that decide: seconds `start_s` up to, not including, `end_s` (unix time)."""

    start_s: int
    end_s: int


@dataclass(frozen=True)
class GroupRow:
    """Both models in one group."""

    group: str
    users: int
    events: int
    champion: float
    challenger: float
    low: float
    """95 % interval of the difference, by bootstrap over users."""
    high: float
    p: float
    """One-sided: chance of so large a gain if the challenger were no better."""

    @property
    def gain(self) -> float:
        """Relative gain; NaN where the champion finds nothing."""
        return self.challenger / self.champion - 1 if self.champion else float("nan")


@dataclass(frozen=True)
class Judgement:
    """Whether the challenger may serve."""

    promote: bool
    reason: str
    metric: str
    rows: tuple[GroupRow, ...]
    """All events first, then the guarded groups."""

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}


def gate_users(timeline: PreparedFolder, gate: Gate, config: CompareConfig) -> npt.NDArray[np.int64]:
    """Return the users who are ranked for, rising: drawn by seed and their own ids from those with an event there.

    Raises:
        UsageError: if nobody has one.
    """
    found = []
    for path in timeline.shard_paths:
        shard = read_shard(path, timeline.manifest.items)
        times_E, offsets_U1 = ragged(shard["timestamps"])
        row_E = np.repeat(np.arange(len(offsets_U1) - 1), np.diff(offsets_U1))
        inside = np.unique(row_E[(times_E >= gate.start_s) & (times_E < gate.end_s)])
        found.append(shard["user"].to_numpy()[inside])
    users = np.concatenate(found).astype(np.int64)
    if not len(users):
        raise UsageError(
            f"nobody has an event from {gate.start_s} to {gate.end_s} (unix seconds); there is nothing to compare on"
        )
    keys = stable_keys(timeline.users["source_id"].to_pylist())[users]
    order = np.argsort(draws(keys, config.seed, 0), kind="stable")[: config.users]
    return np.sort(users[order])


def rank_gate(
    run: Path,
    timeline: PreparedFolder,
    gate: Gate,
    users: npt.NDArray[np.int64],
    config: CompareConfig,
    known_until_s: int,
    recent_V: npt.NDArray[np.int64] | None = None,
    rank: RankAll | None = None,
) -> pa.Table:
    """Rank the events of a gate with a run's best checkpoint.

    Args:
        run: run folder; its items are found in the timeline by source id.
        timeline: all events.
        gate: which of them are ranked.
        users: from `gate_users`.
        config: events of each user.
        known_until_s: a user with an event by then is a known one.
        recent_V: events of the timeline's items before the gate (0 is padding), by which popularity ranks too.
        rank: who ranks, such as the workers of a cluster; None: this process.

    Returns:
        A row for each ranked event: `user`, `event_s`, `number` (from the end, of events of one user and second),
        `rank` among the items that the user has not seen (infinite for one that the model does not know), `unseen`,
        `known`; with `recent_V` also `popular`, the rank by popularity among the same items.
    """
    run_config, record = RunFolder.open(run).config(), RunFolder.open(run).record()
    items = read_items(run)
    choice = TargetChoice(
        data=run_config.data,
        windows=[Window("gate", gate.start_s, gate.end_s)],
        users={0: users},
        cut_s=known_until_s,
        vocabulary=items.num_rows,
        per_user=config.targets_per_user,
        remap_V=remap(timeline.items["source_id"], items["source_id"]),
        told=record.columns.context,
        context=timeline.manifest.context or (),
        wanted=chosen_targets(run_config.data.targets, timeline.manifest),
    )
    baselines = None if recent_V is None else _popularity(recent_V, choice)
    task = RankTask(choice, config.seed, baselines, profiles_UF=timeline.profiles_UF)
    table = (rank or rank_here)(timeline.shard_paths, run, task)
    if table is None:
        raise UsageError(
            f"{run.name} can rank no event of the gate: nobody has two events on items that it knows"
        )
    names = {"user": "user", "event_s": "event_s", MODEL: "rank", "unseen": "unseen", "known": "known"}
    names |= {} if recent_V is None else {ROLLING: "popular"}
    frame = table.select(list(names)).to_pandas().rename(columns=names)
    frame["number"] = frame[::-1].groupby(["user", "event_s"]).cumcount()
    return pa.Table.from_pandas(frame, preserve_index=False)


def rank_here(shards: Sequence[AnyPath], run: Path, task: RankTask) -> pa.Table | None:
    """Rank in this process, one shard after the other."""
    model, _ = load_model(run)
    tables = [table for path in shards if (table := rank_shard(model, read_shard(path), task)) is not None]
    return pa.concat_tables(tables) if tables else None


def _popularity(recent_V: npt.NDArray[np.int64], choice: TargetChoice) -> Baselines:
    """Return popularity in the model's own items; nothing follows anything."""
    assert choice.remap_V is not None
    size = choice.vocabulary + 1
    counts_V = np.bincount(choice.remap_V, weights=recent_V, minlength=size + 1)[:size].astype(np.int64)
    return Baselines(counts_V, {0: counts_V}, csr_matrix((size, size)))


def paired(champion: pa.Table, challenger: pa.Table) -> pd.DataFrame:
    """Return a row for each event that either model can rank; what one cannot rank is a miss of it.

    Returns:
        `user`, `first` and `second` (ranks by champion and challenger), `known_item`, `known_user`.
    """
    on = ["user", "event_s", "number"]
    both = champion.to_pandas().merge(challenger.to_pandas(), on=on, how="outer", suffixes=("", "_2"))
    known = both["known"].combine_first(both["known_2"]).astype(bool)
    return pd.DataFrame(
        {
            "user": both["user"],
            "first": both["rank"].fillna(np.inf),
            "second": both["rank_2"].fillna(np.inf),
            "known_item": both["unseen"].eq(False),
            "known_user": known,
        }
    )


def judge(events: pd.DataFrame, config: CompareConfig) -> Judgement:
    """Decide whether a challenger may serve: better over all, and worse in no guarded group.

    Args:
        events: from `paired`.
        config: metric and levels.
    """
    groups = {
        ALL: np.ones(len(events), bool),
        GUARDED[0]: events["known_item"].to_numpy(bool),
        GUARDED[1]: events["known_user"].to_numpy(bool),
        GUARDED[2]: ~events["known_user"].to_numpy(bool),
    }
    rows, errors = [], {}
    for name, mask in groups.items():
        if mask.any():
            row, error = _group(name, events[mask], config)
            rows.append(row)
            errors[name] = error
    return _verdict(tuple(rows), errors[ALL], config)


def _group(name: str, events: pd.DataFrame, config: CompareConfig) -> tuple[GroupRow, float]:
    """Return the figures of one group and the standard error of the difference."""
    users = PerUser(events["user"].to_numpy())
    first_U, second_U = (
        users.mean(metric_gains(config.metric, events[side].to_numpy(np.float64)))
        for side in ("first", "second")
    )
    found: Difference = compare_gains(first_U[None], second_U[None], config.seed)
    one_sided = found.p / 2 if found.mean > 0 else 1 - found.p / 2
    row = GroupRow(
        name, found.users, len(events), found.first, found.second, found.low, found.high, one_sided
    )
    return row, float((second_U - first_U).std() / np.sqrt(found.users))


def _verdict(rows: tuple[GroupRow, ...], error: float, config: CompareConfig) -> Judgement:
    """Decide from the groups' figures, all events first; `error` is the standard error of the whole difference."""
    overall = rows[0]
    figures = (
        f"{config.metric} {overall.challenger:.4f} against the champion's {overall.champion:.4f} "
        f"({_percent(overall.gain)}; p {overall.p:.3g}) over {overall.users:,} users and {overall.events:,} events"
    )
    lost = [row for row in rows[1:] if row.users >= config.min_users and 1 - row.p <= config.guard_alpha]
    if overall.users < config.min_users:
        few = f"Only {overall.users:,} users have events to compare on, {config.min_users:,} are asked for."
        reason = f"{few} The champion stays."
        return Judgement(False, reason, config.metric, rows)
    if not (overall.challenger > overall.champion and overall.p <= config.alpha):
        least = POWER_FACTOR * error / overall.champion if overall.champion else float("nan")
        reason = (
            f"The challenger was not shown to be better: {figures}. A gain of {_percent(least)} would have been found. "
            "The champion stays."
        )
        return Judgement(False, reason, config.metric, rows)
    if lost:
        what = " and ".join(f"{row.group} ({_percent(row.gain)}, {row.users:,} users)" for row in lost)
        reason = f"The challenger is better over all, but worse for {what}: {figures}. The champion stays."
        return Judgement(False, reason, config.metric, rows)
    checked = [row.group for row in rows[1:] if row.users >= config.min_users]
    guards = (
        f"No loss was found for {_and(checked)}." if checked else "No group had enough users for a guard."
    )
    return Judgement(True, f"The challenger is better: {figures}. {guards}", config.metric, rows)


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %" if np.isfinite(share) else "no figure"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def cut_of(run: Path) -> int:
    """Return the last second that a run may have learned from.

    Raises:
        UsageError: if its record does not say.
    """
    record = RunFolder.open(run).record()
    cut_s = record.cut_s if record.cut_s is not None else record.trained_until_s
    if cut_s is None:
        raise UsageError(f"{run.name} does not say until when it was trained; it cannot be compared")
    return cut_s


def compare_on_gate(
    champion: Path,
    challenger: Path,
    timeline: PreparedFolder,
    gate: Gate,
    config: CompareConfig,
    rank: RankAll | None = None,
) -> Judgement:
    """Rank the gate's events with both models and decide; `rank` as in `rank_gate`.

    Raises:
        UsageError: if a model may have learned from events of the gate, or there is nobody to compare on.
    """
    for run in (champion, challenger):
        if cut_of(run) >= gate.start_s:
            raise UsageError(
                f"{run.name} has seen events up to {cut_of(run)} and the gate begins at {gate.start_s} (unix seconds): "
                "it would be compared on what it has learned"
            )
    users = gate_users(timeline, gate, config)
    known_until_s = cut_of(champion)
    first, second = (
        rank_gate(run, timeline, gate, users, config, known_until_s, rank=rank)
        for run in (champion, challenger)
    )
    return judge(paired(first, second), config)
