"""Many targets of each user from one pass over the history: exact, since the model is causal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.windows import ragged
from ss4rec.protocol.plan import sizes_of


def history_batches(
    rows: pa.Table, batch_targets: int, profiles_UF: npt.NDArray[Any] | None = None
) -> Iterator[EvalBatch]:
    """Yield rows of `windows.target_windows` with at most `batch_targets` targets together, or one that has more."""
    first = 0
    for size in sizes_of(np.diff(ragged(rows["targets"])[1]), batch_targets):
        yield collate_eval(rows.slice(first, size), profiles_UF)
        first += size
