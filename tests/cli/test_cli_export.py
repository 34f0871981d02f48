"""`ss4rec export`: what other programs take from a run."""

import json
from types import SimpleNamespace

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


def _torch(seen):
    ((run, out, most), _) = seen.calls[0]
    assert (run.name, out.name, most) == ("run", "out", 64)
    assert seen.json == {"largest_error": {"step": 1e-7}}


def _onnx(seen):
    assert "step (1e-07)" in seen.out


PROGRAMS = {"answer": {"largest_error": {"step": 1e-7}}}

CASES = (
    Case(
        "export torch --run {run} --out out --most-events 64 --json",
        _torch,
        stub="ss4rec.export.torch_export.export_torch",
        **PROGRAMS,
    ),
    Case(
        "export onnx --run {run} --out out", _onnx, stub="ss4rec.export.onnx_export.export_onnx", **PROGRAMS
    ),
    Case("export onnx --run {folder} --out {folder} --json", lambda seen: None, 2),
    Case("export items --run {run} --out out --unit-length --overwrite --json", _items),
    Case(
        "export index --run {run} --data {prepared} --out out --library faiss --k 5 --users 9 --links 8 "
        "--build-effort 20 --search-effort 20 --overwrite --json",
        _index,
        2,
    ),
    Case("export card --run {run} --out . --json", _card),
    Case(
        "export torch --run {run} --out out",
        _onnx,
        stub="ss4rec.export.torch_export.export_torch",
        **PROGRAMS,
    ),
    Case("export items --run {run} --out out", lambda seen: seen.out.index("items x 16, float32")),
    Case(
        "export card --run {run} --out .", lambda seen: seen.out.index("card.md\nnext: ss4rec serve --run /")
    ),
    Case(
        "export index --run {run} --data {prepared} --out out",
        lambda seen: seen.out.index("120 items, hnswlib; recall@10 0.9900"),
        stub="ss4rec.export.ann_index.export_index",
        answer=SimpleNamespace(items=120, library="hnswlib", k=10, recall=0.99, users=9),
    ),
    Case("export card --run {folder}", lambda seen: None, 2),
)


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    monkeypatch.setattr("ss4rec.export.ann_index.find_spec", lambda name: None)


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
