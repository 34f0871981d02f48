"""From a scorer and batches of users to ranks, and from ranks to metrics; no Ray, and no matter whence the batches.

Ranks are rows of a table with one row a user, so parts that different workers ranked are merged by
concatenation; `require_each_user_once` is the check that nobody is missing or counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.errors import DataError
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.metrics import METRICS, Metric, hit_rate, ndcg
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.evaluation.scorers import Scorer

Seen = Literal["kept", "excluded"]
TargetTime = Literal["known", "unknown"]
SETTINGS: tuple[tuple[Seen, TargetTime], ...] = (
    ("kept", "known"),
    ("excluded", "known"),
    ("kept", "unknown"),
    ("excluded", "unknown"),
)
"""Whether seen items stay in the ranking, and whether the scorer may use the target's time."""
_WITH_INTERVAL: tuple[Metric, ...] = (hit_rate, ndcg)
_INTERVAL_K = 10


class SettingResult(BaseModel):
    """Metrics in one of the four settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    seen: Seen
    """Whether items of the history stay in the ranking."""
    target_time: TargetTime
    """Whether the scorer may use the time of the target."""
    metrics: dict[str, float]
    """Mean over users, by name as in `NDCG@10`."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over users of HR@10 and NDCG@10, where 10 is one of the cut-offs."""


class EvalResult(BaseModel):
    """Metrics of one scorer in all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    num_users: PositiveInt
    """Users ranked."""
    settings: tuple[SettingResult, ...]
    """In the order of `SETTINGS`."""

    def setting(self, seen: Seen, target_time: TargetTime) -> SettingResult:
        """Return the metrics in one setting."""
        return next(s for s in self.settings if (s.seen, s.target_time) == (seen, target_time))


def rank_column(seen: Seen, target_time: TargetTime) -> str:
    """Return the column of `rank_users`'s table that has the ranks in this setting."""
    return f"rank_{seen}_{target_time}"


def rank_users(scorer: Scorer, batches: Iterable[EvalBatch]) -> pa.Table:
    """Rank the target of every user in `batches`; a stretch of scores of one batch is in memory at a time.

    Returns:
        One row a user: `user` int64 and four float64 columns named by `rank_column`.

    Raises:
        NonFiniteError: if a score is NaN.
    """
    schema = pa.schema([("user", pa.int64()), *((rank_column(*s), pa.float64()) for s in SETTINGS)])
    parts = [pa.table(rank_batch(scorer, batch), schema=schema).to_batches() for batch in batches]
    return pa.Table.from_batches([part for several in parts for part in several], schema=schema)


def rank_batch(scorer: Scorer, batch: EvalBatch) -> dict[str, npt.NDArray[Any]]:
    """Rank one batch in all settings; columns as in `rank_users`."""
    kept_B, excluded_B = _ranks(scorer, batch, target_time_known=True)
    columns = {"user": batch.users_S, "rank_kept_known": kept_B, "rank_excluded_known": excluded_B}
    if scorer.uses_target_time:
        kept_B, excluded_B = _ranks(scorer, batch, target_time_known=False)
    columns |= {"rank_kept_unknown": kept_B, "rank_excluded_unknown": excluded_B}
    return {name: values_B.cpu().numpy() for name, values_B in columns.items()}


def require_each_user_once(users_U: npt.NDArray[np.int64], num_users: int) -> None:
    """Check that `users_U` holds every user 0..num_users-1 exactly once, in any order.

    Raises:
        DataError: naming users that are missing, doubled or unknown.
    """
    is_known_U = (users_U >= 0) & (users_U < num_users)
    times_N = np.bincount(users_U[is_known_U], minlength=num_users)
    wrong = {
        "missing": np.flatnonzero(times_N == 0),
        "doubled": np.flatnonzero(times_N > 1),
        "unknown": users_U[~is_known_U],
    }
    found = [f"{len(users)} {what} (first: {users[0]})" for what, users in wrong.items() if len(users)]
    if found:
        raise DataError(
            f"{len(users_U)} rank rows do not hold each of {num_users} users once: {', '.join(found)}; "
            "evaluate again, and prepare the data again if that does not help"
        )


def summarise(ranks: pa.Table, ks: Sequence[int], seed: int = 0) -> EvalResult:
    """Reduce the ranks of all users to metrics.

    Args:
        ranks: table as from `rank_users`, parts concatenated.
        ks: cut-offs.
        seed: seed of the bootstrap.
    """
    results = []
    for seen, target_time in SETTINGS:
        ranks_U = ranks[rank_column(seen, target_time)].to_numpy()
        metrics = {f"{metric.name}@{k}": metric(ranks_U, k) for metric in METRICS for k in ks}
        intervals = {
            f"{metric.name}@{_INTERVAL_K}": bootstrap_mean(metric.gains(ranks_U, _INTERVAL_K), seed)
            for metric in _WITH_INTERVAL
            if _INTERVAL_K in ks
        }
        results.append(
            SettingResult(seen=seen, target_time=target_time, metrics=metrics, intervals=intervals)
        )
    return EvalResult(num_users=ranks.num_rows, settings=tuple(results))


def _ranks(scorer: Scorer, batch: EvalBatch, *, target_time_known: bool) -> tuple[Tensor, Tensor]:
    """Score and rank one batch with the target's time known or not."""
    with torch.inference_mode():
        return target_ranks(scorer.scores(batch, target_time_known=target_time_known), batch.targets_S)
