import json

import numpy as np
import pyarrow as pa
import pytest

from ss4rec.data.prepare.memory import prepare
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.errors import DataError


@pytest.fixture
def folder(tmp_path):
    rows = [f"{user}\t{item}\t3\t{100 * user + item}" for user in range(1, 6) for item in range(1, 5)]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    prepare(tmp_path / "u.data", tmp_path / "out", k_core=4, rows_per_shard=2)
    return tmp_path / "out"


def test_loads_what_was_saved_and_verifies(folder):
    manifest = Manifest.load(folder)
    manifest.quick_check(folder)
    manifest.verify(folder)
    assert (manifest.users, manifest.items, manifest.interactions) == (5, 4, 20)
    assert [shard.rows for shard in manifest.shards] == [2, 2, 1]
    assert [path.name for path in manifest.shard_paths(folder)] == [f"part-0000{n}.parquet" for n in range(3)]
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
    manifest = Manifest.load(folder)
    content = bytearray((folder / name).read_bytes())
    content[40] ^= 1
    (folder / name).write_bytes(content)
    manifest.quick_check(folder)
    with pytest.raises(DataError, match=rf"{name}.*expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"):
        manifest.verify(folder)


def test_truncated_and_missing_shards(folder):
    manifest = Manifest.load(folder)
    path = folder / "shards/part-00000.parquet"
    path.write_bytes(path.read_bytes()[:100])
    for check in (manifest.quick_check, manifest.verify):
        with pytest.raises(DataError, match=r"part-00000.*expected [\d,]+ bytes, found 100"):
            check(folder)
    with pytest.raises(DataError, match=r"part-00000.*truncated or damaged.*prepare"):
        tables.read_shard(path)
    path.unlink()
    with pytest.raises(DataError, match=r"part-00000.*is missing"):
        manifest.quick_check(folder)
    with pytest.raises(DataError, match=r"part-00000.*is missing"):
        tables.read_shard(path)


def test_other_columns_are_refused(folder):
    path = folder / "items.parquet"
    tables.write_table(pa.table({"item": pa.array([1], pa.int32())}), path)
    with pytest.raises(
        DataError, match=r"items.parquet has columns item: int32, expected item: int32, source_id"
    ):
        tables.read_items(folder)


def test_shards_round_trip(tmp_path):
    offsets = np.array([0, 3, 4, 9])
    columns = {
        "items_E": np.arange(1, 10, dtype=np.int32),
        "times_E": np.arange(9) * 10**9,
        "ratings_E": np.linspace(0.5, 5, 9, dtype=np.float32),
    }
    records = tables.write_shards(tmp_path, **columns, offsets_U1=offsets, rows_per_shard=2)
    assert [(record.rows, record.events) for record in records] == [(2, 4), (1, 5)]
    rows = pa.concat_tables([tables.read_shard(tmp_path / record.name) for record in records]).to_pylist()
    assert [row["user"] for row in rows] == [0, 1, 2]
    for user, row in enumerate(rows):
        part = slice(offsets[user], offsets[user + 1])
        assert row["items"] == columns["items_E"][part].tolist()
        assert row["timestamps"] == columns["times_E"][part].tolist()
        assert row["ratings"] == columns["ratings_E"][part].tolist()
