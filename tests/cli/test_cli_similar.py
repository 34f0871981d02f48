"""`ss4rec similar` on a run that was trained in this process."""

import json

import pyarrow.csv as pacsv

from tests.cli.harness import Case, parametrised


def _shown(seen):
    rows = seen.json
    assert [row["rank"] for row in rows] == [1, 2, 3] * 2
    assert all(row["item"] != row["similar"] and -1 <= row["score"] <= 1 for row in rows)
    assert [row["score"] for row in rows[:3]] == sorted((row["score"] for row in rows[:3]), reverse=True)


def _said(seen):
    assert seen.out.startswith("like 2  ")
    assert len(seen.out.splitlines()) == 5
    assert seen.out.splitlines()[-1].endswith("--all --out similar")


def _written(seen):
    table = pacsv.read_csv(seen.folder / "out" / "part-00000.csv").to_pandas()
    assert table.groupby("item").size().eq(2).all()
    assert set(table["similar"]) <= {2, 5, 8}
    manifest = json.loads((seen.folder / "out" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["k"], manifest["files"][0]["items"]) == (
        "similar items",
        2,
        len(table),
    )


CASES = (
    Case("similar --run {run} --item 2 --item 5 --k 3 --json", _shown),
    Case("similar --run {run} --item 2 --k 3", _said),
    Case(
        "similar --run {run} --all --out out --k 2 --where 'id in (2, 5, 8)' --layout lists --format csv --overwrite",
        _written,
    ),
    Case("similar --run {run} --item 2 --item-features no.csv --gpu", lambda seen: None, 2),
    Case("similar --run {run} --item 999999", lambda seen: None, 2),
    Case("similar --run {run} --all", lambda seen: None, 2),
    Case("similar --run {run}", lambda seen: None, 2),
)


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
