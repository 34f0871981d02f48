"""Many targets of each user from one pass over the history: exact, since the model is causal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.windows import Ranked, ragged, target_windows
from ss4rec.evaluation.evaluator import rank_users
from ss4rec.evaluation.scorers import Scorer
from ss4rec.protocol.plan import sizes_of


def rank_targets(
    scorer: Scorer,
    histories: pa.Table,
    ranked: Ranked,
    data: DataConfig,
    *,
    batch_targets: int = 2048,
    profiles_UF: npt.NDArray[Any] | None = None,
) -> pa.Table:
    """Rank any number of events of each user, each from what its user did before it.

    A history of at most `data.max_len` events is passed over once, whatever the number of targets; longer ones in
    windows (`windows.window_starts` has the rule). Items seen before each target are those of its own history.

    Args:
        scorer: what ranks.
        histories: a shard whose items the scorer knows.
        ranked: the events, by user and time.
        data: length of windows, and which gaps the model reads.
        batch_targets: targets that are scored together.
        profiles_UF: codes of all users' profiles, where the model reads them.

    Returns:
        A table as from `rank_users`: a row a target, in the order of `ranked`.
    """
    rows = target_windows(
        histories, ranked, max_len=data.max_len, target_time=data.target_time, share_passes=True
    )
    return rank_users(scorer, history_batches(rows, batch_targets, profiles_UF))


def history_batches(
    rows: pa.Table, batch_targets: int, profiles_UF: npt.NDArray[Any] | None = None
) -> Iterator[EvalBatch]:
    """Yield rows of `windows.target_windows` with at most `batch_targets` targets together, or one that has more."""
    first = 0
    for size in sizes_of(np.diff(ragged(rows["targets"])[1]), batch_targets):
        yield collate_eval(rows.slice(first, size), profiles_UF)
        first += size
