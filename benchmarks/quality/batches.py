"""What peers of the quality benchmark are given: batches that are ranked, and the sequences that train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import Split, ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.protocol.plan import Plan

IntArray = npt.NDArray[np.int64]


def peer_batches(data: Path, split: Split, plan: Plan, session_len: int = 200) -> Iterator[EvalBatch]:
    """Yield every target with the last events before it, and gaps to the event after each."""
    config = DataConfig(max_len=session_len, overlap=0, target_time=True)
    yield from LocalSource(data, config, batch_size=128, seed=0, plan=plan).eval_batches(split, 512)


def training_events(data: Path, plan: Plan) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Yield user, item and unix second of each training event, shard by shard, in the order of the shards."""
    manifest = Manifest.load(data)
    for path in PreparedFolder.open(data).shard_paths:
        division = plan.divide(read_shard(path, manifest.items))
        items_E, offsets_U1 = ragged(division.histories["items"])
        times_E, _ = ragged(division.histories["timestamps"])
        counts_U = np.diff(offsets_U1)
        kept_E = np.arange(len(items_E)) < np.repeat(offsets_U1[:-1] + division.fit_U, counts_U)
        users_E = np.repeat(division.histories["user"].to_numpy(), counts_U)
        yield users_E[kept_E], items_E[kept_E], times_E[kept_E]
