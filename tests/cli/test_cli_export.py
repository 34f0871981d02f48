"""`ss4rec export`: what other programs take from a run."""

import json

import pytest

from tests.cli.harness import Case, parametrised


def _items(seen):
    assert seen.json["kind"] == "item vectors"
    assert seen.json["unit_length"]
    assert sorted(path.name for path in (seen.folder / "out").iterdir()) == [
        "items.parquet",
        "manifest.json",
        "vectors.npy",
    ]


def _index(seen):
    assert "faiss, which is not installed" in seen.err
    assert not (seen.folder / "out").exists()


def _card(seen):
    assert seen.json["model"]["run"] == "run"
    assert json.loads((seen.folder / "card.json").read_text()) == seen.json
    assert (seen.folder / "card.md").read_text().startswith("# Model card: run")


CASES = (
    Case("export items --run {run} --out out --unit-length --overwrite --json", _items),
    Case(
        "export index --run {run} --data {prepared} --out out --library faiss --k 5 --users 9 --links 8 "
        "--build-effort 20 --search-effort 20 --overwrite --json",
        _index,
        2,
    ),
    Case("export card --run {run} --out . --json", _card),
    Case("export card --run {folder}", lambda seen: None, 2),
)


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    monkeypatch.setattr("ss4rec.export.ann_index.find_spec", lambda name: None)


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
