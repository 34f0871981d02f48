"""Prepared folders as RecBole's files, and back."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ss4rec.cli.export import export_command
from ss4rec.data.export_recbole import export_recbole
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.sources import TableOptions
from ss4rec.errors import DataError

REAL = Path(os.environ.get("SS4REC_DATA", "../shared/data"))


def assert_back_again(prepared, tmp_path):
    """Export, prepare what was written, and compare all tables."""
    export_recbole(prepared, tmp_path / "rb")
    prepare(tmp_path / "rb", tmp_path / "back", k_core=0)
    names = [record.name for record in Manifest.load(prepared).shards]
    for name in [*names, tables.USERS_NAME]:
        assert (prepared / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name
    before, after = tables.read_items(prepared), tables.read_items(tmp_path / "back")
    for column in ("source_id", "title", "count"):
        assert before[column].equals(after[column]), column
    genres = [[genre.replace(" ", "_") for genre in row or []] for row in before["genres"].to_pylist()]
    assert [row or [] for row in after["genres"].to_pylist()] == genres


def test_there_and_back(tmp_path):
    rows = [(user, item, 0.5 * (item % 9 + 1), ord(user) * item) for user in "abc" for item in range(1, 9)]
    lines = "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in rows)
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines)
    (tmp_path / "x.item").write_text(
        'item_id:token\tmovie_title:token_seq\tgenre:token_seq\n1\t"Heat", The (1999)\tDrama War\n2\t\t\n'
    )
    prepare(tmp_path / "x.inter", tmp_path / "in", k_core=0, rows_per_shard=2)
    export_recbole(tmp_path / "in", tmp_path / "rb")
    prepare(tmp_path / "rb", tmp_path / "back", k_core=0, rows_per_shard=2)
    for name in ("items.parquet", "users.parquet", "shards/part-00000.parquet", "shards/part-00001.parquet"):
        assert (tmp_path / "in" / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name
    first = (tmp_path / "rb/rb.inter").read_text().splitlines()[:2]
    assert first == ["user_id:token\titem_id:token\trating:float\ttimestamp:float", "a\t1\t1\t97"]


def test_generated_ratings_come_back(prepared, tmp_path):
    assert_back_again(prepared, tmp_path)


def test_command_line(prepared, tmp_path):
    arguments = ["--data", str(prepared), "--out", str(tmp_path / "rb"), "--name", "shop", "--json"]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    manifest = Manifest.load(prepared)
    assert json.loads(result.output)["lines"] == {
        "inter": manifest.interactions,
        "item": manifest.items,
        "user": manifest.users,
    }
    assert {path.name for path in (tmp_path / "rb").iterdir()} == {"shop.inter", "shop.item", "shop.user"}
    with pytest.raises(DataError, match="is taken"):
        export_recbole(prepared, tmp_path / "rb")


def test_an_id_that_the_format_cannot_hold_is_refused(tmp_path):
    table = pa.table({"user": ["a\tb"] * 3, "item": [1, 2, 3], "time": [1, 2, 3]})
    pq.write_table(table, tmp_path / "p.parquet")
    prepare(tmp_path / "p.parquet", tmp_path / "in", k_core=0)
    with pytest.raises(DataError, match="end at tabs"):
        export_recbole(tmp_path / "in", tmp_path / "rb")
    assert not (tmp_path / "rb").exists()


def test_columns_that_people_brought_come_back(tmp_path):
    lines = [
        f"{user},{item},{10**9 + 10 * user + item},{('phone', 'web', '')[item % 3]},{7 * item + user if item else ''}"
        for user in range(6)
        for item in range(5)
    ]
    (tmp_path / "x.csv").write_text("user,item,time,device,price\n" + "\n".join(lines) + "\n")
    items = "".join(
        f'{item},B {item % 2},{item}.5,red|dark blue,"Title of item number {item}"\n' for item in range(4)
    )
    (tmp_path / "items.csv").write_text("item,brand,weight,tags,about\n" + items)
    (tmp_path / "users.csv").write_text(
        "user,city\n" + "".join(f"{user},{'Rome' * (user % 2)}\n" for user in range(6))
    )
    vectors = {"item": [0, 1, 2, 3], "v": [[0.5, 1.0], [2.0, 3.0], [1.0, 1.0], [0.25, 0.0]]}
    brought = {"user_features": tmp_path / "users.csv", "item_features": tmp_path / "items.csv"}
    context = TableOptions(context=("device", "price"))
    prepare(tmp_path / "x.csv", tmp_path / "in", k_core=0, columns=context, **brought)
    arguments = ["--data", str(tmp_path / "in"), "--out", str(tmp_path / "rb")]
    told = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert "hashed words have no text that could be written: about" in told.output
    head = (tmp_path / "rb/rb.inter").read_text().splitlines()[:2]
    assert head == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tdevice:token\tprice:float",
        "0\t0\t1\t1000000000\tphone\t",
    ]
    prepare(tmp_path / "rb", tmp_path / "back", k_core=0)
    before, after = Manifest.load(tmp_path / "in"), Manifest.load(tmp_path / "back")
    assert after.context == before.context
    assert after.profile_values == before.profile_values == ("city=Rome",)
    for name in [record.name for record in before.shards]:
        assert (tmp_path / "in" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    own, again = tables.read_items(tmp_path / "in"), tables.read_items(tmp_path / "back")
    for column in ("feature.brand", "feature.tags"):
        assert own[column].equals(again[column]), column
    assert str(own["feature.weight"].to_pylist()) == str(again["feature.weight"].to_pylist())
    meaning = {feature.name: feature for feature in after.features["items"]}
    assert meaning["tags"].values == ("dark_blue", "red")
    pq.write_table(pa.table(vectors), tmp_path / "v.parquet")
    prepare(tmp_path / "x.csv", tmp_path / "v", k_core=0, item_features=tmp_path / "v.parquet")
    export_recbole(tmp_path / "v", tmp_path / "rbv")
    assert (tmp_path / "rbv/rbv.item").read_text().splitlines()[1:] == [
        f"{item}\t\t\t{text}" for item, text in enumerate(["0.5 1", "2 3", "1 1", "0.25 0", ""])
    ]


@pytest.mark.realdata
def test_a_real_archive_comes_back(tmp_path):
    archive = REAL / "ml-latest-small.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    prepare(archive, tmp_path / "in")
    assert_back_again(tmp_path / "in", tmp_path)


def test_every_column_is_read_without_options(tmp_path):
    lines = [
        f"{user}\t{item}\t{1e9 + 10 * user + item}\t{'phone' if item % 2 else 'web'}\t{7 * item + user}.5"
        for user in range(6)
        for item in range(5)
    ]
    head = "user_id:token\titem_id:token\ttimestamp:float\tdevice:token\tprice:float\n"
    (tmp_path / "x.inter").write_text(head + "\n".join(lines) + "\n")
    items = "".join(f"{item}\tBrand {item % 2}\t{item}.5\ta b{item}\n" for item in range(5))
    (tmp_path / "x.item").write_text("item_id:token\tbrand:token\tweight:float\ttags:token_seq\n" + items)
    users = "".join(f"{user}\t{'FM'[user % 2]}\tx y\n" for user in range(6))
    (tmp_path / "x.user").write_text("user_id:token\tsex:token\thobbies:token_seq\n" + users)
    prepare(tmp_path / "x.inter", tmp_path / "out", k_core=0)
    manifest = Manifest.load(tmp_path / "out")
    assert [(f.name, f.kind) for f in manifest.context] == [("device", "categorical"), ("price", "number")]
    assert [(f.name, f.kind) for f in manifest.features["items"]] == [
        ("brand", "categorical"), ("weight", "number"), ("tags", "multi")
    ]  # fmt: skip
    assert [f.name for f in manifest.features["users"]] == ["sex", "hobbies"]
    assert manifest.profile_values == ("hobbies=x|y", "sex=F", "sex=M")
    shard = tables.read_shard(tmp_path / "out" / manifest.shards[0].name, 5).slice(2, 1).to_pylist()[0]
    assert shard["context.device"] == [2, 1, 2, 1, 2]
    assert shard["context.price"] == [2.5, 9.5, 16.5, 23.5, 30.5]
    options = TableOptions(context=("device",))
    prepare(tmp_path / "x.inter", tmp_path / "one", k_core=0, columns=options)
    assert [f.name for f in Manifest.load(tmp_path / "one").context] == ["device"]
    with pytest.raises(DataError, match="colour"):
        prepare(tmp_path / "x.inter", tmp_path / "none", k_core=0, columns=TableOptions(context=("colour",)))
