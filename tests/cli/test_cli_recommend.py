"""`ss4rec recommend` and `ss4rec score`: in this process, and what reaches Ray."""

import json
from contextlib import nullcontext

import pytest

from ss4rec.recommendations.output import RecommendManifest, read_lists
from tests.cli.harness import Case, parametrised

RECORD = RecommendManifest.model_validate(
    {
        "model": {"run": "run", "fingerprint": "f", "weights_sha256": "0" * 64, "step": 1},
        "data": {"name": "small", "sha256": "0" * 64, "users": 150, "unknown_events": 3},
        "options": {},
        "device": "cuda",
        "users": 149,
        "lists": 149,
        "items": 9,
        "columns": {},
        "files": [],
    }
)
STUB = {"stub": "ss4rec.recommendations.job.recommend_run", "answer": RECORD}


def _asked(seen):
    ((run_dir, out, data, options), more) = seen.calls[0]
    assert (run_dir.name, out, data.path.name) == ("run", seen.folder / "out", "small")
    assert options.model_dump(exclude_defaults=True) == {
        "k": 7,
        "seen": "kept",
        "at_s": 2_000_000_000,
        "where": "year > 1990",
        "limits": {"genres": 3, "a=b": 2},
        "rerank": "mmr",
        "weight": 0.3,
        "by": "year",
        "pool": 400,
        "layout": "pairs",
        "format": "jsonl",
    }
    beside = more.pop("beside")
    assert {name: [str(path) for path in paths] for name, paths in beside.paths.items()} == {
        "allow": ["a.csv", "b.csv"],
        "deny": ["d.csv"],
        "users": ["u.csv"],
        "items": ["i.csv"],
    }
    assert more.pop("runner") is not None
    assert more.pop("progress")
    assert more == {"device": "cuda", "overwrite": True}
    assert json.loads(seen.out)["users"] == 149
    assert "left out: 3 events" in seen.err


def _written(seen):
    table = read_lists(seen.folder / "out")
    assert table.num_rows == 8
    assert "8 users, 1 files" in seen.out
    assert "left out" in seen.err  # the shop sells other things than the run knows


def _context(seen):
    assert seen.calls[0][0][2].source.context == ("stars",)


def _scored(seen):
    _context(seen)
    ((_, _, source, options), more) = seen.calls[0]
    assert source.source.plan.roles["user"] == "buyer"
    assert (options.layout, options.format, options.at_s, options.seen) == ("lists", "jsonl", 0, "kept")
    assert str(more["beside"].pairs) == "p.csv"
    assert more["device"] == "cuda"


CASES = (
    Case(
        "recommend --run {run} --data {prepared} --out out --k 7 --seen kept --until end --at 2000000000 "
        "--where 'year > 1990' --allow a.csv --allow b.csv --deny d.csv --users u.csv --item-features i.csv "
        "--limit genres=3 --limit a=b=2 --mmr 0.3 --by year --pool 400 --layout pairs --format jsonl "
        "--workers 2 --gpu --address local --overwrite --json",
        _asked,
        **STUB,
    ),
    Case(
        "recommend --run {run} --histories {shop} --columns user=buyer,item=sku,time=when --out out --k 3 "
        "--seen kept --workers 0",
        _written,
    ),
    Case(
        "recommend --run {run} --histories {shop} --columns user=buyer,item=sku,time=when,rating=buyer "
        "--context stars --out out --workers 0",
        _context,
        **STUB,
    ),
    Case(
        "recommend --run {run} --data {prepared} --out out --calibrate 0.5 --format csv --workers 0",
        lambda seen: None,
        **STUB,
    ),
    Case(
        "score --run {run} --histories {shop} --columns user=buyer,item=sku,time=when,rating=buyer "
        "--context stars --pairs p.csv --out out --at 0 --layout lists --format jsonl "
        "--workers 2 --gpu --address local --overwrite --json",
        _scored,
        **STUB,
    ),
    Case(
        "score --run {run} --data {prepared} --pairs p.csv --out out --workers 0",
        lambda seen: seen.out.index("\nnext: ss4rec serve --run /"),
        **STUB,
    ),
    Case(
        "score --run {run} --data {prepared} --pairs nothing.csv --out out --workers 0", lambda seen: None, 2
    ),
)
WRONG = (
    ("--mmr 1 --calibrate 1 --data {prepared}", "two ways"),
    ("", "--histories"),
    ("--data {prepared} --histories {shop}", "one of them"),
    ("--data {prepared} --columns user=x", "--columns"),
    ("--data {prepared} --at soon", "no moment"),
    ("--data {prepared} --at 5 --until test", "held-out"),
    ("--data {prepared} --limit genres", "COLUMN=NUMBER"),
    ("--data {prepared} --format csv --layout lists", "CSV has no lists"),
    ("--data {prepared} --workers 0 --address local", "without Ray"),
    ("--data {prepared} --workers 0 --where __import__('os')", "cannot be read|no condition|no column"),
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address: nullcontext())


@parametrised(CASES)
def test_case(case, perform):
    perform(case)


@pytest.mark.parametrize(("options", "said"), WRONG, ids=str)
def test_what_is_refused(options, said, perform):
    import re

    check = lambda seen: re.search(said, seen.err) or pytest.fail(seen.err)  # noqa: E731
    perform(Case(f"recommend --run {{run}} --out out {options}", check, 2))
