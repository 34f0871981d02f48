"""A small prepared folder of many shards and an untrained run on it: lists need no good model."""

import pytest

from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from tests.evaluation.test_ray_evaluate import save_run

SHAPE = {
    "model.dim": 8, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log", "data.max_len": 10,
    "data.overlap": 2, "evaluation.batch_users": 16,
}  # fmt: skip


@pytest.fixture(scope="session")
def sharded(prepared, tmp_path_factory):
    """The users of `prepared`, three to a shard."""
    data, out = PreparedFolder.open(prepared), tmp_path_factory.mktemp("sharded") / "small"
    manifest = data.manifest
    write_prepared(
        out,
        data.sequences(),
        name="small",
        source=manifest.source,
        filters=manifest.filters,
        rows_dropped={},
        rows_per_shard=3,
    )
    return PreparedFolder.open(out)


@pytest.fixture(scope="session")
def run(sharded, tmp_path_factory):
    """An untrained run."""
    return save_run(override(RunConfig(), SHAPE), sharded.path, tmp_path_factory.mktemp("runs") / "run")


def content(folder):
    """All files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
