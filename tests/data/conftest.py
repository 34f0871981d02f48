"""A prepared folder of several shards, for everything that reads shards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ss4rec.data.prepared.build import Sequences, write_prepared
from ss4rec.data.prepared.manifest import Filters, SourceRecord
from ss4rec.data.sources.rows import Catalogue


@pytest.fixture(scope="session")
def sharded(tmp_path_factory) -> Path:
    """5 shards of 21 users (the last of 16) with 3 to 40 events and ties in time."""
    rng = np.random.default_rng(0)
    lengths_U = rng.integers(3, 41, 100)
    events = int(lengths_U.sum())
    sequences = Sequences(
        user_ids=pa.array(np.arange(100) * 3),
        items=Catalogue(
            pa.array(np.arange(50)), pa.nulls(50, pa.string()), pa.nulls(50, pa.list_(pa.string()))
        ),
        offsets_U1=np.concatenate([[0], np.cumsum(lengths_U)]),
        items_E=rng.integers(1, 51, events).astype(np.int32),
        times_E=10**9 + np.cumsum(rng.choice([0, 7, 10**5], events)),
        ratings_E=np.full(events, 4, np.float32),
    )
    out = tmp_path_factory.mktemp("sharded") / "folder"
    source = SourceRecord(name="x", layout="x", rows=events, bytes=0, sha256="0" * 64)
    write_prepared(
        out,
        sequences,
        name="x",
        source=source,
        filters=Filters(k_core=0),
        rows_dropped={},
        rows_per_shard=21,
    )
    return out
