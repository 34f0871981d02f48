"""A trained run as a library object: a history of source item ids and times in, scores or the best items out.

recommender = ss4rec.load("runs/ml-1m")
recommender.recommend(items=[1193, 661], times=[978300760, 978302109], k=5)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import Histories
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.data.moments import Moment, unix_seconds
from ss4rec.data.prepared.user_profiles import profile_codes
from ss4rec.errors import UsageError
from ss4rec.model.columns import EVENT_CODES
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.last_state import score_last
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.protocol.settings import Protocol
from ss4rec.recommendations.nearest import most_similar, unit_rows
from ss4rec.runs.folder import ITEMS_FILE, RunFolder
from ss4rec.runs.load import load_model

BATCH_HISTORIES = 256
ItemId = int | str


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    item: ItemId
    """Source id, as in the ratings file."""
    score: float
    """The model's logit; comparable within one history only."""
    title: str | None
    """Title, where the source has one."""


@dataclass(frozen=True)
class History:
    """What one user did, in any order and of any length; the model sees the last `max_len` events."""

    items: Sequence[ItemId]
    """Source ids."""
    times: Sequence[Moment]
    """Time of each event: unix seconds, or datetimes (UTC where they name no zone)."""
    target_time: Moment | None = None
    """Moment for which to recommend, as in `times`; None: the median training gap after the last event."""
    ratings: Sequence[float] | None = None
    """Rating of each event, where the model reads them (`model.inputs`); None: unknown."""
    profile: Mapping[str, object] | None = None
    """What is known about the user, as in `{"gender": "F"}`, where the model reads it; None: nothing."""
    context: Mapping[str, Sequence[object]] | None = None
    """What is known about each event, as in `{"device": ["phone", "web"]}`, where the model reads it; None: nothing."""


@dataclass(frozen=True)
class _Encoded:
    """A history in the model's terms, oldest event first."""

    items_T: npt.NDArray[np.int64]
    """Item indices, not cut."""
    gaps_T: npt.NDArray[np.float32]
    hours_T: npt.NDArray[np.int64]
    ratings_T: npt.NDArray[np.float32]
    profile: list[int]
    """Codes, at least one; 0 is unknown."""
    context_TC: npt.NDArray[np.int64]
    """Codes of what is known about each event."""


class Recommender:
    """A model with its vocabulary; build it with `load`.

    Threads may share one: it is only read. After a fork it works in the child on the CPU, with one thread of torch; a
    model on a GPU does not, since CUDA cannot be used in a forked process: load it there.

    Args:
        model: in evaluation mode, on the device that it runs on.
        data: how the run cut its sequences.
        unknown_gap_s: gap from the last event to a moment that is not given, in seconds.
        item_ids: source id of item index 1, 2, ...
        titles: title of item index 1, 2, ...
        profile_values: meaning of the codes of profiles (`RunRecord.profile_values`).
        protocol: what the run was trained and tested on; None: leave-one-out. A cut in time leaves items that never
            trained out of `item_ids`.
    """

    def __init__(
        self,
        model: SequenceModel,
        data: DataConfig,
        unknown_gap_s: float,
        item_ids: Sequence[ItemId],
        titles: Sequence[str | None],
        profile_values: Sequence[str] | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.unknown_gap_s = unknown_gap_s
        self.item_ids = list(item_ids)
        self.titles = list(titles)
        self.profile_values = profile_values
        self.protocol = protocol or Protocol()
        self.index = {item: number for number, item in enumerate(self.item_ids, start=1)}
        self.device = next(model.parameters()).device
        self._process = os.getpid()
        _survive_fork()

    def scores(
        self,
        items: Sequence[ItemId],
        times: Sequence[Moment],
        target_time: Moment | None = None,
        *,
        ratings: Sequence[float] | None = None,
        profile: Mapping[str, object] | None = None,
        ignore_unknown: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Return the score of every item, in the order of `item_ids`.

        Args:
            items: source ids of the history.
            times: time of each event, unix seconds or datetimes.
            target_time: moment for which to score; None: the median training gap after the last event.
            ratings: rating of each event, where the model reads them; None: unknown.
            profile: what is known about the user, where the model reads it; None: nothing.
            ignore_unknown: leave out items that the run does not know, instead of refusing them.

        Raises:
            UsageError: for an empty history, unknown items, lengths that differ, a moment before the last event, or
                what is no time.
        """
        encoded = self._encode(History(items, times, target_time, ratings, profile), ignore_unknown)
        return self._scores([encoded]).matrix()[0, 1:].float().cpu().numpy()

    def recommend(
        self,
        items: Sequence[ItemId],
        times: Sequence[Moment],
        k: int = 10,
        target_time: Moment | None = None,
        *,
        ratings: Sequence[float] | None = None,
        profile: Mapping[str, object] | None = None,
        exclude_seen: bool = True,
        ignore_unknown: bool = False,
    ) -> list[Recommendation]:
        """Return the `k` best items for one history, best first; arguments and errors as for `scores`."""
        history = History(items, times, target_time, ratings, profile)
        return self.recommend_many([history], k, exclude_seen=exclude_seen, ignore_unknown=ignore_unknown)[0]

    def recommend_many(
        self,
        histories: Sequence[History],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        ignore_unknown: bool = False,
    ) -> list[list[Recommendation]]:
        """Return the `k` best items for each history, fewer where fewer are left; errors as for `scores`."""
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 recommendation")
        encoded = [self._encode(history, ignore_unknown) for history in histories]
        found: list[list[Recommendation]] = []
        for first in range(0, len(encoded), BATCH_HISTORIES):
            found += self._best(encoded[first : first + BATCH_HISTORIES], k, exclude_seen)
        return found

    def score_many(
        self,
        histories: Sequence[History],
        candidates: Sequence[Sequence[ItemId]],
        *,
        ignore_unknown: bool = False,
    ) -> list[npt.NDArray[np.float32]]:
        """Return the scores of given items after each history.

        Args:
            histories: as for `recommend_many`.
            candidates: source ids of the items to score after each of them.
            ignore_unknown: leave unknown items of histories out, and score unknown candidates NaN.

        Raises:
            UsageError: as `scores`, and for unknown candidates.
        """
        if len(histories) != len(candidates):
            raise UsageError(f"{len(histories)} histories but {len(candidates)} lists of candidates")
        encoded = [self._encode(history, ignore_unknown) for history in histories]
        wanted = [self._numbers(items, ignore_unknown) for items in candidates]
        found = []
        for first in range(0, len(encoded), BATCH_HISTORIES):
            part = slice(first, first + BATCH_HISTORIES)
            with torch.no_grad():
                scores_BV = self._scores(encoded[part]).matrix().float().cpu().numpy()
            found += [
                np.where(items > 0, scores_V[items], np.float32(np.nan))
                for items, scores_V in zip(wanted[part], scores_BV, strict=True)
            ]
        return found

    def similar(self, item: ItemId, k: int = 10) -> list[Recommendation]:
        """Return the `k` items that the model holds to be most like an item; the score is the cosine of item rows.

        Raises:
            UsageError: for an unknown item, or k below 1.
        """
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 item")
        asked_N = self._numbers([item], ignore_unknown=False)
        with torch.no_grad():
            items_NK, best_NK = most_similar(unit_rows(self.model.item_matrix()), asked_N, k)
        return [
            Recommendation(self.item_ids[other - 1], score, self.titles[other - 1])
            for other, score in zip(items_NK[0].tolist(), best_NK[0].tolist(), strict=True)
            if other
        ]

    def _numbers(self, items: Sequence[ItemId], ignore_unknown: bool) -> npt.NDArray[np.int64]:
        """Return the index of each item, 0 for an unknown one that may be ignored."""
        unknown = [item for item in items if item not in self.index]
        if unknown and not ignore_unknown:
            raise UsageError(
                f"the run does not know {len(unknown)} items: {unknown[:20]}; ids are those of the ratings file"
                f"{self._other_type(unknown)}"
            )
        return np.array([self.index.get(item, 0) for item in items], dtype=np.int64)

    def _encode(self, history: History, ignore_unknown: bool) -> _Encoded:
        """Look up items, order them by time and compute gaps in the way the run was trained."""
        ratings = _ratings(history)
        for values, name in ((history.times, "time"), (ratings, "rating")):
            if len(history.items) != len(values):
                raise UsageError(
                    f"{len(history.items)} items but {len(values)} {name}s; give one {name} for each item"
                )
        indices = np.array([self.index.get(item, 0) for item in history.items], dtype=np.int64)
        unknown = [item for item, index in zip(history.items, indices, strict=True) if index == 0]
        if unknown and not ignore_unknown:
            raise UsageError(
                f"the run does not know {len(unknown)} items: {unknown[:20]}; ids are those of the ratings file"
                f"{self._other_type(unknown)}, ignore_unknown=True leaves them out"
            )
        if not indices.any():
            raise UsageError("the history has no known item; a sequential recommender needs at least one")
        times_T = unix_seconds(history.times)[indices > 0]
        order_T = np.argsort(times_T, kind="stable")
        times_T = times_T[order_T]
        target_s = (
            None
            if history.target_time is None
            else int(unix_seconds([history.target_time], "target_time")[0])
        )
        gaps_T = self._gaps(times_T, target_s)
        last_s = times_T[-1] + round(float(gaps_T[-1]))
        return _Encoded(
            items_T=indices[indices > 0][order_T],
            gaps_T=gaps_T,
            hours_T=(np.append(times_T[1:], last_s) if self.data.target_time else times_T) // HOUR_S,
            ratings_T=ratings[indices > 0][order_T],
            profile=profile_codes(history.profile or {}, self.profile_values) or [0],
            context_TC=self.context_codes(history)[indices > 0][order_T],
        )

    def context_codes(self, history: History) -> npt.NDArray[np.int64]:
        """Return the codes of what is known about each event, a column for each that the model reads, `[T, C]`.

        Raises:
            UsageError: for a column that it does not read, or one of another length.
        """
        told = history.context or {}
        columns = self.model.columns.context
        strange = [name for name in told if name not in {column.name for column in columns}]
        if strange:
            reads = ", ".join(column.name for column in columns) or "nothing"
            raise UsageError(f"the run reads {reads} of events, not {', '.join(strange)}; leave it out")
        codes_TC = np.zeros((len(history.items), len(columns)), np.int64)
        for place, column in enumerate(columns):
            values = told.get(column.name, [None] * len(history.items))
            if len(values) != len(history.items):
                raise UsageError(
                    f"{len(history.items)} items but {len(values)} values of {column.name}; give one for each item"
                )
            codes_T = column.codes_of(values)
            codes_TC[:, place] = np.where(codes_T > 0, codes_T + EVENT_CODES, 0)
        return codes_TC

    def _other_type(self, unknown: Sequence[ItemId]) -> str:
        """Return a hint if the ids are known as texts instead of numbers, or as numbers instead of texts."""
        kind = type(self.item_ids[0]) if self.item_ids else None
        try:
            known = kind is not None and any(kind(item) in self.index for item in unknown[:20])
        except ValueError:
            return ""
        return f" (this run's are of type {kind.__name__})" if known and kind else ""

    def _gaps(self, times_T: npt.NDArray[np.int64], target_time: int | None) -> npt.NDArray[np.float32]:
        """Return the gap of each event in seconds, from int64 differences (`DataConfig.target_time`)."""
        if target_time is not None and target_time < times_T[-1]:
            raise UsageError(
                f"target_time {target_time} is before the last event ({times_T[-1]}); give a later moment or none"
            )
        between = np.diff(times_T).astype(np.float32)
        if not self.data.target_time:
            return np.concatenate([np.zeros(1, np.float32), between])
        last_s = self.unknown_gap_s if target_time is None else target_time - times_T[-1]
        return np.append(between, np.float32(last_s))

    @torch.no_grad()
    def _scores(self, encoded: Sequence[_Encoded]) -> ItemScores:
        """Return the scores of a batch."""
        if self.device.type == "cuda" and os.getpid() != self._process:
            raise UsageError(
                "this recommender's model is on a GPU of the process before the fork; call ss4rec.load here, "
                "or start processes by spawn"
            )
        cut = self.data.max_len
        lengths = [min(len(e.items_T), cut) for e in encoded]
        columns = max(len(e.profile) for e in encoded)
        rows = [e.profile + [0] * (columns - len(e.profile)) for e in encoded]
        profiles_TF = torch.tensor(rows).repeat_interleave(torch.tensor(lengths), dim=0)
        context_TC = torch.from_numpy(np.concatenate([e.context_TC[-cut:] for e in encoded]))
        batch = Histories(
            items_T=_packed([e.items_T[-cut:] for e in encoded]),
            gaps_T=_packed([e.gaps_T[-cut:] for e in encoded]),
            hours_T=_packed([e.hours_T[-cut:] for e in encoded]),
            ratings_T=_packed([e.ratings_T[-cut:] for e in encoded]),
            profiles_TF=torch.cat([profiles_TF, context_TC], dim=1),
            offsets_S1=torch.tensor([0, *lengths]).cumsum(0),
            seen_X=_packed([e.items_T for e in encoded]),
            seen_offsets_S1=torch.tensor([0, *(len(e.items_T) for e in encoded)]).cumsum(0),
        )
        return score_last(self.model, batch, self.device)

    @torch.no_grad()
    def _best(
        self, encoded: Sequence[_Encoded], k: int, exclude_seen: bool
    ) -> Iterator[list[Recommendation]]:
        """Yield the best items of each history of a batch."""
        best_BK, items_BK = self._scores(encoded).top(k, exclude_seen=exclude_seen)
        for scores_K, items_K in zip(best_BK.tolist(), items_BK.tolist(), strict=True):
            yield [
                Recommendation(self.item_ids[item - 1], score, self.titles[item - 1])
                for score, item in zip(scores_K, items_K, strict=True)
                if score > -np.inf
            ]


@cache
def _survive_fork() -> None:
    """Let torch compute in forked children: its threads do not live on there, and it would wait for them for ever."""
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _packed(parts: list[npt.NDArray[Any]]) -> Tensor:
    """Return one array after the other as a tensor."""
    return torch.from_numpy(np.concatenate(parts))


def _ratings(history: History) -> npt.NDArray[np.float32]:
    """Return the ratings of a history; NaN where they are unknown."""
    if history.ratings is None:
        return np.full(len(history.items), np.nan, np.float32)
    try:
        return np.asarray(history.ratings, dtype=np.float32)
    except (TypeError, ValueError):
        raise UsageError(
            f"ratings are {list(history.ratings)[:5]!r}; ratings are numbers, or None for all"
        ) from None


def load(run_dir: Path | str, device: str = "cpu") -> Recommender:
    """Load the best checkpoint of a run.

    Raises:
        DataError: if `run_dir` is no run folder.
        CheckpointError: if no checkpoint is intact.
    """
    run_dir = Path(run_dir)
    model, config = load_model(run_dir, device)
    record = RunFolder.open(run_dir).record()
    vocabulary = pq.read_table(run_dir / ITEMS_FILE, columns=["source_id", "title"])
    return Recommender(
        model,
        config.data,
        record.median_gap_s,
        vocabulary["source_id"].to_pylist(),
        vocabulary["title"].to_pylist(),
        record.profile_values,
        config.protocol,
    )
