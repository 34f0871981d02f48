"""Data from strangers: archives, JSON, Parquet and checkpoints that want memory, time, other files, or to run code."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.cli.options import data_folder, resolve_config
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared import tables
from ss4rec.data.sources import Archive, Source
from ss4rec.errors import ConfigError, DataError
from tests.faults.folders import replace_table, rewrite_manifest, shard_of
from tests.faults.small import small


def bounded(action, *, most_mib=64):
    """Run `action`, which must raise a DataError, in bounded memory (and time: pytest-timeout ends a hang)."""
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    try:
        with pytest.raises(DataError) as caught:
            action()
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
    finally:
        tracemalloc.stop()
    assert peak < most_mib << 20
    return str(caught.value)


def zipped(path, name, content=b"1::2::3::4\n", mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        if mode is not None:
            info.external_attr = mode << 16
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["../ratings.dat", "/etc/ratings.dat", "a/../../ratings.dat", "..\\ratings.dat"]
)
def test_zip_that_climbs(tmp_path, name):
    """Hostile input: a member outside of the archive's folder.

    Seen to fail: with the look at `..` in `_open_zip` left out.
    """
    assert "outside its own folder" in bounded(lambda: Archive(zipped(tmp_path / "x.zip", name)))


def test_zip_with_a_link(tmp_path):
    """Hostile input: a member that is a symbolic link.

    Seen to fail: with the look at the member's mode in `_open_zip` left out.
    """
    path = zipped(tmp_path / "x.zip", "ratings.dat", b"/etc/passwd", mode=0o120777)
    assert "symbolic link" in bounded(lambda: Archive(path))


def test_zip_bomb(tmp_path):
    """Hostile input: 1 MB that says it unpacks to 1 GB and more is refused before a byte of it is read.

    Seen to fail: with `refuse_bomb` left out of `Archive._member`.
    """
    path = tmp_path / "x.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("ratings.dat", "w") as member,
    ):
        for _ in range(1100):
            member.write(bytes(1 << 20))
    assert "unpacks from" in bounded(lambda: Source.open(path).read())


def test_zip_bomb_that_lies_about_its_size(tmp_path):
    """Hostile input: the size in the directory is false; no more than that is read.

    Seen to fail: no guard of ours to remove: Python's zipfile stops at the size that the directory says.
    """
    path = zipped(tmp_path / "x.zip", "ratings.dat", b"1::2::3::4\n" * (8 << 20))
    raw = path.read_bytes()
    real, fake = struct.pack("<L", 11 * (8 << 20)), struct.pack("<L", 1000)
    assert raw.count(real) == 2
    path.write_bytes(raw.replace(real, fake))
    bounded(lambda: Source.open(path).read())


def test_encrypted_zip(tmp_path):
    """Hostile input: a member that wants a password.

    Seen to fail: with the except in `Archive._member` left out.
    """
    path = zipped(tmp_path / "x.zip", "ratings.dat")
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    assert "cannot be opened" in bounded(lambda: Source.open(path).read())


def test_link_out_of_a_source_folder(tmp_path):
    """Hostile input: a folder whose ratings are a link to somewhere else.

    Seen to fail: with `_inside` left out of `Archive`.
    """
    (tmp_path / "secret").write_text("1::2::3::4\n")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/ratings.dat").symlink_to(tmp_path / "secret")
    assert "symbolic link" in bounded(lambda: Source.open(tmp_path / "source").read())


def test_link_in_a_prepared_folder(folder):
    """Hostile input: a shard that is a link.

    Seen to fail: with the look at links in `_check_size` left out.
    """
    path = shard_of(folder)
    moved = path.rename(folder.parent / "elsewhere.parquet")
    path.symlink_to(moved)
    assert "symbolic link" in bounded(lambda: data_folder(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(users=10**12),
        lambda raw: raw.update(items=2**31),
        lambda raw: raw.update(users=raw["users"] + 1),
        lambda raw: raw.update(interactions=10**15),
        lambda raw: raw.update(median_gap_s=float("nan")),
        lambda raw: raw.update(shards=raw["shards"] * 2),
        lambda raw: raw["shards"][0].update(name="../../etc/passwd"),
        lambda raw: raw["shards"][0].update(name="shards/../../x.parquet"),
        lambda raw: raw["files"].update({"/etc/passwd": raw["files"]["items.parquet"]}),
        lambda raw: raw["files"].pop("users.parquet"),
        lambda raw: raw["shards"][0].update(sha256="0"),
    ],
)
def test_absurd_manifest(folder, change):
    """Hostile input: shapes that would take all memory, names that climb out, sums that do not add up.

    Seen to fail: with `_check_sums` left out of `Manifest.load`, or the pattern of a shard's name.
    """
    rewrite_manifest(folder, change)
    # Refused by the manifest itself, before any path in it is looked at.
    assert "manifest.json is damaged" in bounded(lambda: data_folder(folder))


def test_pipe_in_place_of_a_file(folder):
    """Hostile input: a named pipe as manifest; opening it would wait for ever.

    Seen to fail: with the look at the kind of file in `files.read_json` left out.
    """
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert "it is no file" in bounded(lambda: data_folder(folder))


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**6, b'{"a":' * 10**6, b"9" * 10**6, b"\xed\xa0\x80", b"\xff", b""],
    ids=["lists", "objects", "number", "surrogate", "latin", "empty"],
)
@pytest.mark.parametrize("file", ["manifest.json", "preset.json"])
def test_json_of_a_million_levels(folder, text, file):
    """Hostile input: JSON that breaks parsers.

    Seen to fail: with the `except RecursionError` in `files.parse_json` left out.
    """
    (folder / file).write_bytes(text)
    with pytest.raises((DataError, ConfigError)):
        data_folder(folder) if file == "manifest.json" else resolve_config(str(folder / file), [])


def test_option_of_a_million_levels():
    """Hostile input: the same on the command line.

    Seen to fail: as above.
    """
    with pytest.raises(ConfigError, match=r"model.dim"):
        resolve_config("debug", ["model.dim=" + "[" * 10**5])


def test_json_of_a_gigabyte(folder):
    """Hostile input: a manifest without an end.

    Seen to fail: with the limit in `files.read_json` left out.
    """
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(1 << 30)
    assert "more than 64 MiB" in bounded(lambda: data_folder(folder))


def events(folder, **columns):
    """Return the first shard's table with other columns."""
    table = tables.read_shard(shard_of(folder))
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    return table


@pytest.mark.parametrize(
    "column",
    [
        {"items": lambda rows: [[10**6] * len(row) for row in rows]},
        {"items": lambda rows: [[0] * len(row) for row in rows]},
        {"items": lambda rows: [[None] * len(row) for row in rows]},
        {"items": lambda rows: [None for _ in rows]},
        {"items": lambda rows: [row[:-1] for row in rows]},
        {"timestamps": lambda rows: [[-1] * len(row) for row in rows]},
        {"timestamps": lambda rows: [[2**62] * len(row) for row in rows]},
    ],
)
def test_shard_with_absurd_values(folder, column):
    """Hostile input: checksums that fit, items and times that no table holds (on a GPU: an assertion without a name).

    Seen to fail: with `_check_events` left out of `read_shard`.
    """
    ((name, make),) = column.items()
    original = tables.read_shard(shard_of(folder))[name].to_pylist()
    table = events(folder, **{name: make(original)})
    replace_table(folder, f"shards/{shard_of(folder).name}", table)
    data_folder(folder)
    source = LocalSource(folder, small().data, batch_size=32, seed=0)
    bounded(lambda: list(source.train_batches(0, 0, 1)))


def test_users_table_that_asks_for_memory(folder):
    """Hostile input: a shard number of two billion would size an array.

    Seen to fail: with `_check_users` left out of `SequenceSource`.
    """
    users = tables.read_users(folder)
    huge = pa.array(np.full(users.num_rows, 2**31 - 1), pa.int32())
    table = users.set_column(users.column_names.index("shard"), users.schema.field("shard"), huge)
    replace_table(folder, "users.parquet", table)
    bounded(lambda: LocalSource(folder, small().data, batch_size=32, seed=0))


def test_parquet_bomb(folder):
    """Hostile input: a few kB of Parquet that hold 400 million events.

    Seen to fail: with `refuse_bomb` left out of `_read_parquet`.
    """
    path = shard_of(folder)
    row = {"user": 0, "items": [1] * 10**6, "timestamps": [0] * 10**6, "ratings": [1.0] * 10**6}
    table = pa.Table.from_pylist([row], schema=tables.SHARD_SCHEMA)
    with pq.ParquetWriter(path, tables.SHARD_SCHEMA, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(table)
    assert path.stat().st_size < 1 << 20
    del table, row
    assert "unpacks from" in bounded(lambda: tables.read_shard(path))
    source = path.parent / "r.parquet"
    columns = {name: pa.array([1] * 10**6) for name in ("user", "item", "time")}
    with pq.ParquetWriter(source, pa.table(columns).schema, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(pa.table(columns))
    assert "unpacks from" in bounded(lambda: Source.open(source).read())


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return Path.touch, (self.flag,)


def test_pickled_objects_of_ray_data_stay_closed(folder, tmp_path, monkeypatch):
    """No code from data: a column of Ray's object type is refused by its type, whatever Ray's own switch says.

    Seen to fail: with `_check_schema` after instead of before the values are used; by its type, the column is refused.
    """
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    monkeypatch.setenv("RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR", "1")
    flag = tmp_path / "executed"
    table = tables.read_shard(shard_of(folder))
    blobs = pa.array([pickle.dumps(Bomb(flag))] * table.num_rows, pa.large_binary())
    evil = table.append_column("extra", pa.ExtensionArray.from_storage(ArrowPythonObjectType(), blobs))
    replace_table(folder, f"shards/{shard_of(folder).name}", evil)
    data_folder(folder)
    assert "has columns" in bounded(lambda: tables.read_shard(shard_of(folder)))
    assert not flag.exists()
    pickle.loads(pickle.dumps(Bomb(flag)))
    assert flag.exists(), "the bomb is a real one"


def test_torch_pickle_in_place_of_a_checkpoint(tmp_path):
    """No code from data: a file of torch.save under the name of safetensors is refused and not unpickled.

    Seen to fail: with `torch.load(weights_only=False)` in `_load`.
    """
    import torch

    from ss4rec.errors import CheckpointError
    from ss4rec.runs import checkpoint

    flag = tmp_path / "executed"
    path = checkpoint.save(
        tmp_path, model={"x": torch.zeros(1)}, training={}, state={"global_step": 1, "score": None}
    )
    torch.save({"x": Bomb(flag)}, path / "model.safetensors")
    names = ("model.safetensors", "training.safetensors", "state.json")
    (path / "checksums.json").write_text(
        json.dumps({name: checkpoint.sha256_of(path / name) for name in names})
    )
    with pytest.raises(CheckpointError, match="no safetensors"):
        checkpoint.read(path).model_tensors()
    assert not flag.exists()


def test_no_pickle_and_no_unsafe_load_in_the_code():
    """No code from data: nowhere is something unpickled that came from a file.

    Seen to fail: with a `torch.load(` in any module.
    """
    root = Path(__file__).parents[2]
    found = {
        f"{path.relative_to(root)}:{word}"
        for folder in ("ss4rec", "drift", "ray_jobs", "tuning")
        for path in (root / folder).rglob("*.py")
        for word in (
            "torch.load(",
            "pickle.load",
            "joblib",
            "yaml.load(",
            "allow_pickle=True",
            "eval(",
            "exec(",
        )
        if f" {word}" in (text := path.read_text()) or f"({word}" in text
    }
    # Work items that this process itself has just pickled for Ray's tasks.
    assert found <= {"ss4rec/data/batches/ray_source.py:pickle.load"}, found
    assert os.environ.get("RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR", "0") != "1"
