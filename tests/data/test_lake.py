"""Delta and Iceberg tables as `--source`: what is refused before Ray starts, and small local tables read by Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from ss4rec.cli import main_group, run
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources import ray_lake
from tests.data.reference import content


def told(capsys, *words: object) -> tuple[int, str]:
    """Run `data prepare` and return its exit code and what it says on stderr."""
    with pytest.raises(SystemExit) as ended:
        run(main_group, ["data", "prepare", *map(str, words)])
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.fixture
def no_ray(monkeypatch):
    """Fail if a cluster is asked for."""
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda *words, **options: pytest.fail("Ray starts"))


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_missing_reader_is_said_before_ray_starts(tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "shop" / "_delta_log").mkdir(parents=True)
    source = tmp_path / "shop" if kind == "delta" else "iceberg://mine/shop.events"
    monkeypatch.setattr(ray_lake, "find_spec", lambda name: None)
    code, err = told(capsys, "--source", source, "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert f"pip install {ray_lake.READERS[kind]}" in err


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("source", ["iceberg://", "iceberg://mine", "iceberg://mine/"])
def test_an_address_without_a_table_is_said_before_ray_starts(tmp_path, monkeypatch, capsys, source):
    monkeypatch.setattr(ray_lake, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(ray_lake, "READERS", {"iceberg": "json"})
    code, err = told(capsys, "--source", source, "--out", tmp_path / "out")
    assert code == 2
    assert "write iceberg://CATALOG/NAMESPACE.TABLE" in err


def table() -> pd.DataFrame:
    rows = [
        (f"u{user}", (7 * user + place) % 30, 1_600_000_000 + 1000 * user + 37 * place, "web")
        for user in range(40)
        for place in range(9)
    ]
    return pd.DataFrame(rows, columns=["customer", "sku", "bought", "channel"])


COLUMNS = "user=customer,item=sku,time=bought"


def expected(frame: pd.DataFrame, folder: Path) -> PreparedFolder:
    columns = dict(pair.split("=") for pair in COLUMNS.split(","))
    return PreparedFolder(folder, prepare(frame, folder, columns=columns, k_core=0))


def same(first: PreparedFolder, second: PreparedFolder) -> None:
    """Compare everything but what names the source."""
    left, right = content(first.path), content(second.path)
    assert set(left) == set(right)
    assert {str(name) for name in left if left[name] != right[name]} == {"manifest.json"}


@pytest.mark.ray
@pytest.mark.usefixtures("small_cluster")
def test_a_delta_table_without_its_deleted_rows(tmp_path, capsys):
    deltalake = pytest.importorskip("deltalake")
    frame, lake = table(), tmp_path / "shop"
    deltalake.write_deltalake(str(lake), pa.Table.from_pandas(frame[:200]))
    deltalake.write_deltalake(str(lake), pa.Table.from_pandas(frame[200:]), mode="append")
    deltalake.DeltaTable(str(lake)).delete("sku = 7")
    out = tmp_path / "out"
    words = ("--source", lake, "--out", out, "--columns", COLUMNS, "--k-core", 0)
    assert told(capsys, *words, "--address", "auto")[0] == 0
    same(PreparedFolder.open(out), expected(frame[frame["sku"] != 7], tmp_path / "expected"))
    assert PreparedFolder.open(out).manifest.name == "shop"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "shop"]


@pytest.mark.ray
@pytest.mark.usefixtures("small_cluster")
def test_an_iceberg_table_by_its_catalogue(tmp_path, capsys, monkeypatch):
    address = f"sqlite:///{tmp_path}/catalogue.db"
    monkeypatch.setenv("PYICEBERG_CATALOG__MINE__URI", address)  # read when pyiceberg is imported
    monkeypatch.setenv("PYICEBERG_CATALOG__MINE__TYPE", "sql")
    pytest.importorskip("pyiceberg.io.pyarrow")
    from pyiceberg.catalog.sql import SqlCatalog

    catalogue = SqlCatalog("mine", uri=address, warehouse=(tmp_path / "warehouse").as_uri())
    catalogue.create_namespace("shop")
    rows = pa.Table.from_pandas(table(), preserve_index=False)
    catalogue.create_table("shop.events", schema=rows.schema).append(rows)
    out = tmp_path / "out"
    words = ("--out", out, "--columns", COLUMNS, "--k-core", 0, "--address", "auto")
    assert told(capsys, "--source", "iceberg://mine/shop.events", *words)[0] == 0
    same(PreparedFolder.open(out), expected(table(), tmp_path / "expected"))
    code, err = told(capsys, "--source", "iceberg://mine/shop.orders", *words)
    assert code == 2
    assert "iceberg://mine/shop.orders cannot be read" in err
