"""Columns of items in their own words: from the run, a prepared folder with features, and a file."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources.features import read_features
from ss4rec.errors import DataError, UsageError
from ss4rec.recommendations.filters import UserItems, read_ids, read_list, user_items
from ss4rec.recommendations.items import Items
from ss4rec.runs.folder import RunFolder
from tests.evaluation.test_ray_evaluate import save_run
from tests.recommend.conftest import SHAPE


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prepared folder with features of items, and an untrained run on it."""
    base = tmp_path_factory.mktemp("shop")
    rows = [(f"u{user}", f"s{item}", 86400 * (user * item % 50)) for user in range(8) for item in range(8)]
    names = ("user", "item", "time")
    pacsv.write_csv(
        pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)}), base / "shop.csv"
    )
    about = {
        "sku": [f"s{item}" for item in range(7)],  # the last one is not described
        "brand": ["A", "B", "A", None, "B", "A", "C"],
        "tags": ["red|new", "red", "new", "", "blue|new", "red", "blue"],
        "price": [1.5, 2.5, 3.5, 4.5, None, 6.5, 7.5],
    }
    pacsv.write_csv(pa.table(about), base / "about.csv")
    kinds = {"brand": "categorical", "tags": "multi", "price": "number"}
    prepare(
        base / "shop.csv",
        base / "data",
        k_core=0,
        item_features=base / "about.csv",
        feature_kinds=kinds,
    )
    config = override(RunConfig(), SHAPE | {"model.item_features": "none"})
    return save_run(config, base / "data", base / "run"), PreparedFolder.open(base / "data"), base


def chosen(items, condition):
    return items.source_id.filter(pa.array(items.fulfilling(condition)[1:])).to_pylist()


def test_columns_of_a_prepared_folder_are_in_words(shop):
    run, data, _ = shop
    items = Items.of(RunFolder(run), data)
    assert chosen(items, "brand == 'A'") == ["s0", "s2", "s5"]
    assert chosen(items, "brand in ('B', 'C') and price > 3") == ["s6"]
    assert chosen(items, "'new' in tags") == ["s0", "s2", "s4"]
    assert chosen(items, "brand is None") == ["s3", "s7"]
    assert chosen(items, "id == 's1' or events > 100") == ["s1"]
    held = items.one_hot("tags", "--limit tags").sum(1).tolist()
    assert held == [0, 2, 1, 1, 0, 2, 1, 1, 0]
    with pytest.raises(UsageError, match=r"--limit x: there is no column 'x'; items have id, title"):
        items.one_hot("x", "--limit x")
    with pytest.raises(UsageError, match="no item has a value of 'genres'"):
        items.one_hot("genres", "--calibrate")


def test_columns_of_a_file_win_and_are_joined_by_id(shop, tmp_path):
    run, data, _ = shop
    path = tmp_path / "stock.csv"
    pacsv.write_csv(pa.table({"id": ["s3", "s0", "x"], "price": [9, 1, 1], "stock": [0, 5, 5]}), path)
    items = Items.of(RunFolder(run), data, read_features(path, ("id",)))
    assert chosen(items, "stock > 0") == ["s0"]
    assert chosen(items, "price == 9") == ["s3"]


def test_lists_of_items_and_users(shop, tmp_path):
    run, data, _ = shop
    items = Items.of(RunFolder(run))
    both, only, ids = (tmp_path / name for name in ("both.csv", "only.csv", "ids.csv"))
    pacsv.write_csv(pa.table({"item_id": ["s1", "s9", "s2"], "User": ["u3", "u3", "nobody"]}), both)
    pacsv.write_csv(pa.table({"anything": ["s1", "s2"]}), only)
    pacsv.write_csv(pa.table({"a": [1], "b": [2]}), ids)
    found = read_list(both, items)
    assert (found.items.tolist(), found.unknown_items) == ([2, 0, 3], 1)
    assert read_list(only, items).users is None
    assert read_ids(only, "user").to_pylist() == ["s1", "s2"]
    lists, strange = user_items([found], data.users["source_id"])
    assert strange == 1
    has, flat, offsets = lists.of_users(np.array([0, 3, 5]))
    assert (has.tolist(), flat.tolist(), offsets.tolist()) == ([False, True, False], [2], [0, 0, 1, 1])
    assert UserItems.of_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64)).of_users(np.array([1]))[
        2
    ].tolist() == [0, 0]
    for read in (lambda: read_list(ids, items), lambda: read_ids(ids, "user")):
        with pytest.raises(DataError, match="has the columns a, b; name the one with ids"):
            read()
    with pytest.raises(DataError, match=r"missing.csv does not exist; give a file"):
        read_list(tmp_path / "missing.csv", items)
