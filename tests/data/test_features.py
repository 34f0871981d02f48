"""Columns that people bring about items and users: read, encoded, described, and kept by a cut in time."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.features import MAX_VALUES, TEXT_BUCKETS, encode_features
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources.features import FeatureTable, as_profiles, read_features
from ss4rec.data.split import split
from ss4rec.errors import DataError

ITEMS = """item_id,brand,tags,price,title,stock
3,Acme,red|new,10.5,Small red kettle,1
0,,,,,
1,Acme,red,20,Large red kettle of steel,2
2,Other,blue | new,,Blue cup,2
4,Zeta,,1000000,"Cup, blue",1
9,Nobody,x,1,Never seen here,3
"""
USERS = "user\tage\tcity\n" + "".join(
    f"{user}\t{20 + user * 3}\t{'Rome' if user % 2 else ''}\n" for user in range(12)
)


@pytest.fixture
def shop(tmp_path):
    rows = [f"{user},{item},{1000 * user + item}" for user in range(12) for item in range(5)]
    (tmp_path / "shop.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "users.tsv").write_text(USERS)
    return tmp_path


def test_columns_of_items_are_encoded_and_described(shop):
    prepare(shop / "shop.csv", shop / "plain", k_core=0)
    prepare(shop / "shop.csv", shop / "out", k_core=0, item_features=shop / "items.csv")
    plain, folder = PreparedFolder.open(shop / "plain"), PreparedFolder.open(shop / "out")
    assert plain.manifest.features is None
    assert folder.items.select(plain.items.column_names).equals(plain.items)
    meaning = {feature.name: feature for feature in folder.manifest.features["items"]}
    assert {name: feature.kind for name, feature in meaning.items()} == {
        "brand": "categorical", "tags": "multi", "price": "number", "title": "text", "stock": "categorical"
    }  # fmt: skip
    columns = {name: folder.items[f"feature.{name}"].to_pylist() for name in meaning}
    assert meaning["brand"].values == ("Acme", "Other", "Zeta")  # no value of an item that nobody has
    assert columns["brand"] == [0, 1, 2, 1, 3]
    assert meaning["tags"].values == ("blue", "new", "red")
    assert columns["tags"] == [[], [3], [1, 2], [2, 3], []]
    assert (meaning["price"].center, meaning["price"].scale) == (
        20,
        np.diff(np.percentile([10.5, 20, 1e6], (25, 75))) / 2,
    )
    assert columns["price"][3] == 10.5
    assert np.isnan([columns["price"][place] for place in (0, 2)]).all()
    kettles = [set(columns["title"][item]) for item in (1, 3)]
    assert len(kettles[0] & kettles[1]) > 5 > len(set(columns["title"][2]) & kettles[0])
    assert max(max(row, default=0) for row in columns["title"]) < TEXT_BUCKETS
    assert folder.manifest.columns["items"]["feature.tags"] == "list<item: int32>"


def test_a_cut_in_time_keeps_them(shop):
    prepare(shop / "shop.csv", shop / "out", k_core=0, item_features=shop / "items.csv")
    split(shop / "out", shop / "cut", 6002)
    whole = PreparedFolder.open(shop / "out")
    for part in ("past", "timeline"):
        folder = PreparedFolder.open(shop / "cut" / part)
        assert folder.manifest.features == whole.manifest.features
        found = dict(
            zip(folder.items["source_id"].to_pylist(), folder.items["feature.brand"].to_pylist(), strict=True)
        )
        assert found == {0: 0, 1: 1, 2: 2, 3: 1, 4: 3}


def test_columns_of_users_become_profiles(shop):
    prepare(shop / "shop.csv", shop / "out", k_core=0, user_features=shop / "users.tsv")
    folder = PreparedFolder.open(shop / "out")
    values = np.array(["", *folder.manifest.profile_values])[folder.profiles_UF]
    assert set(values[1::2, 1]) == {"city=Rome"}
    assert set(values[::2, 1]) == {""}
    assert len(set(values[:, 0])) == 8  # twelve ages in eight groups
    assert values[0, 0].startswith("age=20 to below ")


def test_recbole_types_and_vectors(tmp_path):
    (tmp_path / "x.item").write_text(
        "item_id:token\tkinds:token_seq\tplace:float_seq\tzip:token\n7\ta b\t1 2.5\t007\n8\t\t\t\n"
    )
    (tmp_path / "c.csv").write_text("id,zip,size\n1,007,1.5\n2,12,\n")
    columns = read_features(tmp_path / "c.csv", ("item_id",)).columns
    assert columns.to_pydict() == {"zip": ["007", "12"], "size": [1.5, None]}
    known = read_features(tmp_path / "x.item", ("item_id",))
    table, meaning = encode_features(pa.array([7, 8]), known)
    assert [feature.kind for feature in meaning] == ["multi", "vector", "categorical"]
    assert table["feature.place"].to_pylist() == [[1.0, 2.5], []]
    assert meaning[2].values == ("007",)
    pq.write_table(pa.table({"sku": ["a"], "size": [1.5]}), tmp_path / "p.parquet")
    assert read_features(tmp_path / "p.parquet", ("item_id",)).source_id.to_pylist() == ["a"]


def test_rare_values_share_a_code():
    names = [f"b{number}" for number in range(MAX_VALUES + 5)]
    known = FeatureTable("x", pa.array(range(len(names) + 1)), pa.table({"brand": [*names, "b0"]}))
    table, (brand,) = encode_features(known.source_id, known, {"brand": "categorical"})
    assert len(brand.values) == MAX_VALUES
    assert table["feature.brand"].to_pylist().count(MAX_VALUES + 1) == 5


@pytest.mark.parametrize(
    ("text", "kinds", "message"),
    [
        ("item,a\n1,x\n1,y\n", {}, "empty or repeated ids"),
        ("item\n1\n", {}, "no column beside item"),
        ("item,a\n77,x\n", {}, "describes none of the 5 items"),
        ("item,a\n1,x\n", {"a": "number"}, "column a is not of kind number"),
        ("item,a\n1,x\n", {"b": "number"}, "has the columns a; kinds are categorical"),
        ("", {}, "bad.csv is empty"),
    ],
)
def test_bad_files_are_refused(shop, text, kinds, message):
    (shop / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        prepare(
            shop / "shop.csv", shop / "out", k_core=0, item_features=shop / "bad.csv", feature_kinds=kinds
        )
    assert not (shop / "out").exists()
    assert not (shop / ".out.work").exists()


def test_numbers_of_users_in_few_values_stay_as_they_are():
    known = FeatureTable("x", pa.array([1, 2]), pa.table({"age": [25, None], "vip": [True, False]}))
    assert as_profiles(known).values.to_pydict() == {"age": ["25", None], "vip": ["true", "false"]}


def test_a_file_in_a_zip_and_tags_of_many_people(shop):
    tags = "userId,movieId,tag,timestamp\n1,3,red,5\n2,3,nice,6\n2,3,red,7\n1,0,,8\n1,4,007,9\n"
    with zipfile.ZipFile(shop / "films.zip", "w") as archive:
        archive.writestr("films/tags.csv", tags)
        archive.writestr("films/users.csv", USERS.replace("\t", ","))
    prepare(
        shop / "shop.csv",
        shop / "out",
        k_core=0,
        item_features=shop / "films.zip" / "tags.csv",
        user_features=shop / "films.zip" / "films" / "users.csv",
    )
    folder = PreparedFolder.open(shop / "out")
    (tag,) = folder.manifest.features["items"]
    assert (tag.name, tag.kind, tag.values) == ("tag", "multi", ("007", "nice", "red"))
    assert folder.items["feature.tag"].to_pylist() == [[], [], [], [2, 3], [1]]
    assert "city=Rome" in folder.manifest.profile_values
    with pytest.raises(
        DataError, match=r"films.zip has 0 files tag.csv; it has films/tags.csv, films/users.csv"
    ):
        read_features(shop / "films.zip" / "tag.csv", ("item_id",))


def test_several_numbers_of_one_item_are_refused(tmp_path):
    (tmp_path / "prices.csv").write_text("item,user,price\n1,7,5\n1,8,6\n")
    with pytest.raises(DataError, match="price would have several numbers"):
        read_features(tmp_path / "prices.csv", ("item",), several=True)
    with pytest.raises(DataError, match="repeated ids"):
        read_features(tmp_path / "prices.csv", ("item",))
