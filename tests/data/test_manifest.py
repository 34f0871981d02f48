import json

import numpy as np
import pyarrow as pa
import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Filters, Manifest
from ss4rec.errors import DataError


@pytest.fixture
def folder(tmp_path):
    rows = [f"{user}\t{item}\t3\t{100 * user + item}" for user in range(1, 6) for item in range(1, 5)]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    prepare(tmp_path / "u.data", tmp_path / "out", k_core=4, rows_per_shard=2)
    return tmp_path / "out"


def test_loads_what_was_saved_and_verifies(folder):
    prepared = PreparedFolder.open(folder)
    prepared.quick_check()
    prepared.verify()
    manifest = prepared.manifest
    assert (manifest.users, manifest.items, manifest.interactions) == (5, 4, 20)
    assert [shard.rows for shard in manifest.shards] == [2, 2, 1]
    assert [path.name for path in prepared.shard_paths] == [f"part-0000{n}.parquet" for n in range(3)]
    before = (folder / "manifest.json").read_bytes()
    manifest.save(folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_missing_manifest(tmp_path):
    with pytest.raises(DataError, match="no prepared folder"):
        Manifest.load(tmp_path)
    with pytest.raises(DataError, match="no prepared folder"):
        Manifest.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "format version None"),
        ('{"format_version": 7}', "format version 7, this program reads 1.*prepare` again"),
    ],
)
def test_refused_manifest(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Manifest.load(folder)


def test_unknown_and_wrong_fields_are_named(folder):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(raw | {"colour": 1}))
    with pytest.raises(DataError, match="colour"):
        Manifest.load(folder)
    (folder / "manifest.json").write_text(json.dumps(raw | {"users": -1}))
    with pytest.raises(DataError, match="users"):
        Manifest.load(folder)


@pytest.mark.parametrize("name", ["shards/part-00001.parquet", "items.parquet"])
def test_a_flipped_bit_is_found_by_checksum_only(folder, name):
    prepared = PreparedFolder.open(folder)
    content = bytearray((folder / name).read_bytes())
    content[40] ^= 1
    (folder / name).write_bytes(content)
    prepared.quick_check()
    with pytest.raises(DataError, match=rf"{name}.*expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"):
        prepared.verify()


def test_truncated_and_missing_shards(folder):
    prepared = PreparedFolder.open(folder)
    path = folder / "shards/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    for check in (prepared.quick_check, prepared.verify):
        with pytest.raises(DataError, match=r"part-00000.*expected [\d,]+ bytes, found 100"):
            check()
    with pytest.raises(DataError, match=r"part-00000.*truncated or damaged.*prepare"):
        tables.read_shard(path)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000.*is missing"):
        prepared.quick_check()
    with pytest.raises(DataError, match=r"part-00000.*is missing"):
        tables.read_shard(path)


def test_other_columns_are_refused(folder):
    path = folder / "items.parquet"
    tables.write_table(pa.table({"item": pa.array([1], pa.int32())}), path)
    with pytest.raises(
        DataError, match=r"items.parquet has columns item: int32, expected item: int32, source_id"
    ):
        tables.read_items(folder)


def test_events_in_memory_round_trip(tmp_path, sharded):
    before = PreparedFolder.open(sharded).sequences()
    facts = {"source": PreparedFolder.open(sharded).manifest.source, "filters": Filters(k_core=0)}
    write_prepared(tmp_path / "out", before, name="x", rows_dropped={}, rows_per_shard=7, **facts)
    after = PreparedFolder.open(tmp_path / "out").sequences()
    assert len(after.user_ids) == 100
    for name in ("offsets_U1", "items_E", "times_E", "ratings_E"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert after.user_ids == before.user_ids
    some = PreparedFolder.open(sharded).sequences([1, 3])
    kept_E = (before.users_E // 21) % 2 == 1
    assert np.array_equal(some.items_E, before.items_E[kept_E])
    chosen = before.select(before.items_E % 2 == 0)
    assert chosen.items.source_id.to_pylist() == list(range(1, 50, 2))
    assert np.array_equal(chosen.items_E, before.items_E[before.items_E % 2 == 0] // 2)
