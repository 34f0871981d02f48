"""`ss4rec data ...` on small real files."""

import pyarrow.parquet as pq

from ss4rec.data.prepared.manifest import Manifest
from tests.cli.harness import Case, parametrised

COLUMNS = "--columns user=buyer,item=sku,time=when,rating=stars"


def _prepared(seen):
    manifest = Manifest.load(seen.folder / "out")
    assert seen.json["manifest"]["name"] == manifest.name == "shop!"
    assert (manifest.users, manifest.items, len(manifest.shards)) == (8, 8, 2)
    kinds = {feature.name: feature.kind for feature in manifest.features["items"]}
    assert (kinds["source_id"], kinds["count"]) == ("categorical", "number")
    assert "count=8" in manifest.profile_values
    assert [feature.name for feature in manifest.context] == ["aisle", "kind"]
    assert (manifest.targets.column, manifest.targets.values) == ("kind", ("buy", "view"))


def _some_rows_bad(seen):
    manifest = Manifest.load(seen.folder / "out")
    assert (
        set(manifest.quarantined) >= {"off the scale", "too early"} or sum(manifest.quarantined.values()) > 20
    )
    assert pq.read_table(seen.folder / "out" / "quarantine.parquet").num_rows > 20
    assert "in quarantine" in seen.out
    _told(seen, "\nnext: ss4rec data audit --data out\n      ss4rec train --data out\n")


def _synth(seen):
    assert seen.json["counts"]["users"] == 40
    assert (seen.folder / "out" / "ratings.csv").is_file()


def _core(seen, k):
    """Data with drift are there to be cut in time, which takes no core of all events."""
    from ss4rec.data.prepared.manifest import Manifest

    assert Manifest.load(seen.folder / "out").filters.k_core == k


CASES = (
    Case(
        "data prepare --source {shop} --out {folder}/out "
        + COLUMNS
        + " --k-core 6 --name shop! --rows-per-shard 4 "
        "--item-features {whole}/items.parquet --user-features {whole}/users.parquet --feature-kinds count=number "
        "--context aisle --targets kind=buy|view "
        "--engine tasks --ties hash --json",
        _prepared,
    ),
    Case(
        "data prepare --source {shop} --out {folder}/out " + COLUMNS + " --k-core 0 --max-bad-share 0.9 "
        "--earliest 1970-01-05 --latest 1970-02-15 --scale 2 5 --repeats drop --overwrite",
        _some_rows_bad,
    ),
    Case(
        "data prepare --source {shop} --out {folder}/out --engine memory --address local",
        lambda seen: None,
        2,
    ),
    Case(
        "data synth --out {folder}/out --like small --users 40 --items 100 --mean-len 24 --drift pace=2@2003-01-01 "
        "--wander 0.1 --seed 3 --format csv --json",
        _synth,
    ),
    Case(
        "data synth --out '{folder}/two words' --users 40 --items 100 --mean-len 24 --format csv",
        lambda seen: _told(
            seen,
            "\nnext: ss4rec data prepare --source 'two words' --out 'two words-prepared'\n",
        ),
    ),
    Case(
        "data synth --out {folder}/out --users 40 --items 100 --mean-len 24 --drift pace=2@2018-01-01",
        lambda seen: _core(seen, 0),
    ),
    Case(
        "data synth --out {folder}/out --users 40 --items 100 --mean-len 24 --k-core 3",
        lambda seen: _core(seen, 3),
    ),
    Case(
        "data synth --out {folder}/out --users 40 --items 100 --mean-len 24",
        lambda seen: _told(seen, "\nnext: ss4rec data audit --data out\n"),
    ),
    Case(
        "data split --data {whole} --protocol time-to-split --set protocol.cut=0.6 --out {folder}/cut",
        lambda seen: _next_is_train(seen),
    ),
    Case(
        "data get ml-1m --dir {folder}/here --url http://mirror/",
        lambda seen: _got(seen),
        stub="ss4rec.cli.get.download",
        answer="ml-1m.zip",
    ),
    Case(
        "data export --data {prepared} --out {folder}/box --format recbole --name toy --json",
        lambda seen: _exported(seen),
    ),
    Case(
        "data export --data {prepared} --out box",
        lambda seen: _told(
            seen, "\nnext: recbole --model SASRec --dataset box  # where RecBole is installed\n"
        ),
    ),
    Case("data compare {whole} {whole} --json", lambda seen: _same(seen)),
    Case("data compare {whole} {whole}", lambda seen: _told(seen, "8 items are in both; 100.0%")),
    Case(
        "data split --data {whole} --cutoff 1970-01-25 --out {folder}/cut --k-core 2 --json",
        lambda seen: _cut(seen),
    ),
    Case(
        "data split --data {whole} --protocol time-to-split --set protocol.cut=0.6 --out {folder}/cut --json",
        lambda seen: _tables(seen),
    ),
    Case(
        "data prepare --source {shop} --out {folder}/out " + COLUMNS + " --delimiter , --time-unit s --json",
        lambda seen: _told(seen, "shop"),
    ),
    Case(
        "data prepare --source {shop} --out {folder}/out " + COLUMNS + " --time-format %d.%m.%Y",
        lambda seen: None,
        2,
    ),
    Case("data audit --data {whole} --users 5 --html {folder}/a.html --json", lambda seen: _audited(seen)),
    Case(
        "data audit --data {prepared} --split time-to-split --set protocol.cut=0.7 --users 20",
        lambda seen: _lights(seen),
    ),
    Case("data audit --data {whole} --split no-such", lambda seen: None, 2),
    Case(
        "data split --data {whole} --cutoff 1970-01-25 --out {folder}/cut",
        lambda seen: _told(seen, "\nnext: ss4rec train --data cut/past\n      ss4rec drift --data cut "),
    ),
)


def _told(seen, words):
    assert words.replace("{folder}", str(seen.folder)) in seen.out


def _got(seen):
    ((args, options),) = seen.calls
    assert args[1] == seen.folder / "here"
    assert options["base"] == "http://mirror/"
    assert "ss4rec data prepare --source ml-1m.zip" in seen.out


def _exported(seen):
    assert seen.json["lines"]["user"] > 100
    assert (seen.folder / "box" / "toy.inter").is_file()


def _audited(seen):
    assert seen.json["facts"]["sizes"]["events"] == 64
    assert {light["tone"] for light in seen.json["lights"]} <= {"good", "warn", "bad"}
    assert seen.json["fields"]["train.epochs"] > 0
    assert (seen.folder / "a.html").read_text().startswith("<!doctype html>")


def _lights(seen):
    """Text in 80 columns, a rule beside each light, and what to do next."""
    assert max(map(len, seen.out.splitlines()[:-1])) <= 80
    assert seen.out.count("rule:") == seen.out.count("●") + seen.out.count("▲") + seen.out.count("■") > 20
    assert "time-to-split with cut=0.7" in " ".join(seen.out.split())
    assert "\nnext: ss4rec train --data " in seen.out


def _same(seen):
    assert seen.json["found_share"] == 1.0


def _next_is_train(seen):
    told = seen.out.splitlines()[-1]
    assert told.startswith("next: ss4rec train --data /")
    assert told.endswith("whole --protocol time-to-split --set protocol.cut=0.6")


def _tables(seen):
    assert seen.json["protocol"]["cut"] == 0.6
    assert pq.read_table(seen.folder / "cut" / "test.parquet").num_rows > 0


def _cut(seen):
    assert seen.json["folder"] == str(seen.folder / "cut")
    assert Manifest.load(seen.folder / "cut" / "past").filters.k_core == 2


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
