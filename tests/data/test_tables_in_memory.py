"""Tables from Python as sources: pandas, Polars, Arrow, Ray Data, Delta and Iceberg."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.tables import read_items, read_shard
from ss4rec.data.sources import TableOptions, tables_in_memory
from ss4rec.errors import DataError, SS4RecError

ROWS = 2_000
COLUMNS = {
    "user_id": [f"u{n % 50}" for n in range(ROWS)],
    "sku": [n % 7 for n in range(ROWS)],
    "when": [1_577_836_800_000 + 1000 * n for n in range(ROWS)],
    "stars": [1.0 + n % 5 for n in range(ROWS)],
    "note": ["x" * 10] * ROWS,
}
NAMED = {"time": "when"}


def arrow():
    return pa.table(COLUMNS)


TABLES = {
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas, datetimes": lambda: pd.DataFrame(COLUMNS | {"when": pd.to_datetime(COLUMNS["when"], unit="ms")}),
    "pandas, categories": lambda: pd.DataFrame(COLUMNS).astype({"user_id": "category"}),
    "pandas, Arrow's types": lambda: pd.DataFrame(COLUMNS).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars, lazy": lambda: pl.LazyFrame(COLUMNS),
    "polars, categories": lambda: pl.DataFrame(COLUMNS).with_columns(pl.col("user_id").cast(pl.Categorical)),
    "arrow": arrow,
    "arrow reader": lambda: arrow().to_reader(300),
    "arrow batch": lambda: arrow().to_batches()[0],
    "arrow dataset": lambda: pyarrow.dataset.dataset(arrow()),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    pd.DataFrame(COLUMNS).to_csv(folder / "t.csv", index=False)
    prepare(folder / "t.csv", folder / "out", k_core=0, columns=NAMED, name="t")
    return folder / "out"


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_becomes_the_folder_that_its_csv_becomes(tmp_path, expected, kind, monkeypatch):
    monkeypatch.setattr(tables_in_memory, "PART_ROWS", 700)
    manifest = prepare(TABLES[kind](), tmp_path / "out", k_core=0, columns=NAMED, name="t")
    assert manifest.interactions == ROWS
    assert manifest.source.name == "table.parquet"
    for name in ("shards/part-00000.parquet", "users.parquet", "items.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (expected / name).read_bytes(), name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": [1.0, np.nan]}, r"the table: user has type double; ids must be strings or integers"),
        (
            {"when": np.array([1.5e9, 1.6e9], np.float32)},
            r"the table: time has type float, which holds 7 digits",
        ),
        ({"when": [20240101, 20240102]}, r"the table: time 20240101 looks like a date.*--time-format %Y%m%d"),
        ({"when": pd.to_timedelta([1, 2], unit="s")}, r"the table: time has type duration"),
        ({"when": ["soon", "later"]}, r"the table: time has type string \(first value 'soon'\)"),
        ({"sku": [{"a": 1}, 2]}, r"the table cannot be read"),
        ({"sku": [(1,), "x"]}, r"the table cannot be read"),
        ({"user_id": []}, r"the table has no rows"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, changes, message):
    rows = len(next(iter(changes.values())))
    table = pd.DataFrame({"user_id": ["a", "b"], "sku": [1, 2], "when": [1.5e9, 1.6e9]}).iloc[:rows]
    with pytest.raises(DataError, match=message):
        prepare(table.assign(**changes), tmp_path / "out", k_core=0, columns=NAMED)
    assert list(tmp_path.iterdir()) == []


def test_columns_are_named_doubled_or_missing(tmp_path):
    table = pd.DataFrame([[1, 2, 3]], columns=["user", "item", "user"])
    with pytest.raises(DataError, match=r"the table has the column 'user' twice"):
        prepare(table, tmp_path / "out")
    with pytest.raises(DataError, match=r"the table has the columns a, b; none is known to be the user"):
        prepare(pd.DataFrame({"a": [1], "b": [2]}), tmp_path / "out")
    with pytest.raises(SS4RecError, match=r"source is a list; give a path, or a pandas, Polars"):
        prepare([1, 2], tmp_path / "out")


def test_mixed_ids_are_texts_and_options_count(tmp_path):
    table = pd.DataFrame({"user": [1, "x", 1, "x"] * 3, "item": list("abab") * 3, "time": [20240101] * 12})
    options = TableOptions(time_format="%Y%m%d")
    manifest = prepare(table, tmp_path / "out", k_core=0, columns=options)
    assert (manifest.users, manifest.first_time_s) == (2, 1704067200)
    assert read_items(tmp_path / "out")["source_id"].to_pylist() == ["a", "b"]


@pytest.mark.ray
def test_ray_datasets_stream(small_cluster, tmp_path, expected):
    import ray.data

    dataset = ray.data.from_arrow(arrow()).repartition(5)
    prepare(dataset, tmp_path / "out", k_core=0, columns=NAMED, name="t")
    shard = "shards/part-00000.parquet"
    assert read_shard(tmp_path / "out" / shard).equals(read_shard(expected / shard))


@pytest.mark.ray
def test_delta_tables(small_cluster, tmp_path):
    """Rows that were deleted are in the files and not in the table."""
    deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed")
    from ss4rec.data.sources.ray_lake import lake_kind, read_lake

    folder = tmp_path / "delta"
    deltalake.write_deltalake(folder, arrow().slice(0, 1000))
    deltalake.write_deltalake(folder, arrow().slice(1000), mode="append")
    deltalake.write_deltalake(folder, arrow().slice(0, 10), mode="append")
    deltalake.DeltaTable(folder).restore(1)
    assert len(list(folder.glob("*.parquet"))) == 3
    assert lake_kind(str(folder)) == "delta"
    dataset = read_lake(str(folder), TableOptions(columns=NAMED))
    manifest = prepare(dataset, tmp_path / "out", k_core=0, columns=NAMED, name="t")
    assert manifest.interactions == ROWS
    with pytest.raises(DataError, match=r"is a Delta table"):
        prepare(folder, tmp_path / "no")


@pytest.mark.ray
def test_iceberg_tables(small_cluster, tmp_path):
    pytest.importorskip("pyiceberg", reason="pyiceberg is not installed")
    import ray.data
    from pyiceberg.catalog import load_catalog

    settings = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"file://{tmp_path}/lake",
    }
    catalog = load_catalog("local", **settings)
    catalog.create_namespace("shop")
    catalog.create_table("shop.events", schema=arrow().schema).append(arrow())
    dataset = ray.data.read_iceberg(
        table_identifier="shop.events", catalog_kwargs={"name": "local", **settings}
    )
    manifest = prepare(dataset, tmp_path / "out", k_core=0, columns=NAMED, name="t")
    assert manifest.interactions == ROWS
    folder = next((tmp_path / "lake").rglob("metadata")).parent
    with pytest.raises(DataError, match=r"is an Iceberg table"):
        prepare(folder, tmp_path / "no")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*; give another --out"):
        prepare(TABLES["pandas"](), tmp_path / "file" / "out", columns=NAMED)
