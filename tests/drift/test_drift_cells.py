"""Cells, verdicts, report and the whole job."""

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import drift.cells.compare as cells_module
from benchmarks.drift.simulate import Plant, simulate
from drift.cells.run import all_cells, run_cell
from drift.cells.types import FAMILIES, REFERENCE, Cell, CellContext, Row
from drift.config import ALARMS, DriftConfig
from drift.job import exit_code, run_drift
from drift.model.quality import Quality
from drift.plan import Plan, check_contract
from drift.report import contents, store
from drift.report.assemble import assemble
from drift.report.contents import Verdict, Verdicts
from drift.report.episodes import WindowMeans, find_episodes
from drift.report.store import KEY_NAME, read_earlier, write_all
from drift.report.verdict import judge, severity, worst
from drift.signals.histograms import HistogramMaker
from drift.signals.items import ItemCounts, read_item_facts
from drift.signals.popularity_noise import percentile_noise
from drift.stats.mmd import mmd_test
from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.split import SplitRecord, split
from ss4rec.errors import ContractError
from ss4rec.io.atomic import write_json
from ss4rec.model.columns import DataColumns, ItemColumns
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import RunRecord, data_fingerprint

CONFIG = DriftConfig(permutations=299, bootstrap=50, min_users=50, wandb="disabled", alibi=())

ITEMS = pa.table({"source_id": [1], "title": ["a"], "genres": [["Drama"]]})


def context(plant, seed=0, config=CONFIG, past=3):
    made = simulate(plant, seed)
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    catalogue = read_item_facts(made.items, vocabulary=plant.items, seen=plant.items)
    make = HistogramMaker(made.windows, list(range(plant.windows)), catalogue, counts)
    plan = Plan(
        made.windows,
        made.windows[past].start_s - 1,
        [past - 1],
        list(range(past)),
        list(range(past, plant.windows)),
    )
    return CellContext(config, plan, make(made.shard), make.layout)


def judged(found):
    rows = [row for cell in all_cells(found.plan, found.plan.future) for row in run_cell(found, cell)]
    judge(found, rows)
    return rows


def test_planted_fall_is_found_dated_and_signed():
    found = context(Plant(windows=8, users=150, step=5, rating=-0.4))
    rows = judged(found)
    main = {(row.window, row.signal): row for row in rows if row.comparison == "reference"}
    names = [found.name(w) for w in found.plan.future]
    assert [main[name, "rating"].severity in ("drift", "severe") for name in names] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert main[names[3], "rating"].shift < -0.2
    episodes = find_episodes(found, rows, WindowMeans(found))
    rating = {e.comparison: e for e in episodes if e.signal == "rating"}
    assert (rating["reference"].first, rating["reference"].last) == (names[2], names[4])
    assert rating["reference"].ongoing
    assert rating["previous"].first == rating["previous"].last == names[2]
    assert "stars given" in rating["previous"].words
    assert all(row.severity not in ALARMS for row in rows if row.comparison == "control")
    row = main[names[2], "rating"]
    assert row.effect_low < row.effect < row.effect_high
    assert row.n_users_ref >= 150
    previous = {row.window: row for row in rows if row.comparison == "previous" and row.signal == "rating"}
    assert previous[names[2]].p_adj <= 0.05 < previous[names[4]].p_adj


def test_cells_do_not_depend_on_their_order():
    found = context(Plant(windows=5, users=60))
    todo = all_cells(found.plan, found.plan.future)
    forward = {cell: run_cell(found, cell) for cell in todo}
    backward = {cell: run_cell(found, cell) for cell in reversed(todo)}
    for cell in todo:
        strip = [[replace(row, ms=0.0) for row in side[cell]] for side in (forward, backward)]
        assert repr(strip[0]) == repr(strip[1])


def test_a_failed_cell_is_a_row_with_its_error(monkeypatch):
    found = context(Plant(windows=5, users=20))
    monkeypatch.setattr(cells_module, "permutation_test", lambda *a: 1 / 0)
    rows = run_cell(found, Cell("reference", 4))
    assert [(row.status, row.signal) for row in rows] == [("error", "*")]
    assert "ZeroDivisionError" in rows[0].error
    judge(found, rows)
    assert rows[0].severity == "undecided"


def test_an_empty_window_says_so():
    found = context(Plant(windows=5, users=20, returning=0.0))
    empty = replace(
        found,
        histograms=replace(
            found.histograms, window_R=np.where(found.histograms.window_R == 4, 99, found.histograms.window_R)
        ),
    )
    rows = run_cell(empty, Cell("reference", 4))
    assert {row.status for row in rows} == {"too_few"}
    assert {row.n_users_cur for row in rows} == {0}


def row(**changes):
    base = Row(
        "w", "reference", "userperm", "rating", 400, 400, effect=0.1, p_adj=0.01, p_floor=1e-4, threshold=0.05
    )
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p_adj": 0.06}, "none"),
        ({"effect": 0.04}, "noted"),
        ({"effect": 0.09}, "drift"),
        ({"effect": 0.10}, "severe"),
        ({"n_users_cur": 299}, "undecided"),
        ({"p_floor": 0.02}, "undecided"),
        ({"status": "too_few"}, "undecided"),
    ],
)
def test_severity(changes, expected):
    assert severity(DriftConfig(), row(**changes), 4) == expected


def test_p_is_adjusted_for_all_windows():
    """Without Holm one window of 34 at p = .01 would be an alarm."""
    found = context(Plant(windows=37, users=4, returning=0.0))
    rows = [row(window=found.name(w), p_max=0.01 if w == 9 else 0.5) for w in found.plan.future]
    judge(found, rows)
    assert min(r.p_adj for r in rows) == pytest.approx(0.34 / FAMILIES[REFERENCE])
    assert {r.severity for r in rows} == {"none"}
    assert worst(["none", "severe", "undecided"]) == "severe"


def test_mmd_equals_its_definition():
    rng = np.random.default_rng(0)
    ref, cur = rng.standard_normal((12, 3)), rng.standard_normal((9, 3)) + 0.5
    everything = np.vstack([ref, cur])
    squared = ((everything[:, None] - everything) ** 2).sum(-1)
    middle = np.sort(squared.ravel())[21 + (441 - 21) // 2 - 1]
    kernel = np.exp(-squared / middle)
    np.fill_diagonal(kernel, 0)
    want = kernel[:12, :12].sum() / 132 + kernel[12:, 12:].sum() / 72 - 2 * kernel[12:, :12].mean()
    assert mmd_test(ref, cur, 10, rng)[0] == pytest.approx(want, abs=1e-6)
    assert mmd_test(ref, cur + 3, 99, rng)[1] == 0.01


def test_mmd_equals_alibi_detect():
    cd = pytest.importorskip("alibi_detect.cd")
    rng = np.random.default_rng(1)
    ref, cur = (rng.standard_normal((80, 5)).astype(np.float32) + shift for shift in (0, 0.3))
    theirs = cd.MMDDrift(ref, backend="pytorch", n_permutations=5, device="cpu")
    found = theirs.predict(cur)["data"]["distance"]
    assert mmd_test(ref, cur, 5, rng, bandwidth_from=ref)[0] == pytest.approx(float(found), abs=1e-5)


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """A split folder of eight simulated quarters, cut after the fourth; ratings fall at the sixth."""
    root = tmp_path_factory.mktemp("drift")
    made = simulate(Plant(windows=8, users=60, step=5, rating=-1.0), 3)
    lengths = [len(row) for row in made.shard["items"]]
    flat = {name: made.shard[name].combine_chunks().flatten() for name in ("items", "timestamps", "ratings")}
    table = {
        "userId": np.repeat(made.shard["user"].to_numpy(), lengths),
        "movieId": flat["items"],
        "timestamp": flat["timestamps"],
        "rating": flat["ratings"],
    }
    for name, last_s in (("short", made.windows[6].end_s), ("all", 2**40)):
        part = pa.table(table).filter(pa.compute.less(pa.array(table["timestamp"]), last_s))
        pq.write_table(part, root / f"{name}.parquet")
        prepare(root / f"{name}.parquet", root / f"full-{name}", k_core=0, rows_per_shard=100)
        split(root / f"full-{name}", root / f"cut-{name}", made.windows[4].start_s - 1)
    split(root / "full-all", root / "later", made.windows[6].start_s - 1)
    return root


def untrained(past: Path, path: Path) -> Path:
    """Save an untrained model as a run on a prepared folder."""
    torch.manual_seed(0)
    shape = {
        "model.dim": 8,
        "model.time_states": 4,
        "model.relation_states": 4,
        "data.max_len": 10,
        "data.overlap": 2,
    }
    config, manifest, folder = override(RunConfig(), shape), Manifest.load(past), RunFolder(path)
    folder.start(config, PreparedFolder.open(past))
    model = SS4Rec(config.model, manifest.items)
    facts = {"config": config, "manifest": manifest, "model": model, "device": "cpu", "workers": 1}
    write_json(path / "result.json", {})
    write_json(path / "record.json", RunRecord.collect(name=path.name, **facts).model_dump())
    state = {"epoch": 1, "step": 0, "global_step": 1, "score": 0.5}
    checkpoint.save(folder.checkpoints, model=model.state_dict(), training={}, state=state)
    return path


def read_once():
    """Return a function that reads a shard so that nobody can read it a second time; it travels to workers whole."""

    def read_and_remove(path, num_items):
        from ss4rec.data.prepared.tables import read_shard

        table = read_shard(path, num_items)
        path.unlink()
        return table

    return read_and_remove


@pytest.mark.ray
def test_whole_job_workers_and_since_last(small_cluster, cut, tmp_path, monkeypatch):
    config = DriftConfig(permutations=199, bootstrap=20, min_users=20, workers=2, wandb="disabled", alibi=())

    def go(name, out, run=None, **options):
        settings = options.pop("config", config)
        return run_drift(cut / f"cut-{name}", run, tmp_path / out, settings, **options)

    # Each shard is read once, by reports with a model, too: what was read is gone.
    shutil.copytree(cut / "cut-all", cut / "cut-once")
    with monkeypatch.context() as patched:
        patched.setattr("drift.ray_passes.read_shard", read_once())
        report, code = go("once", "two")
    assert len(Manifest.load(cut / "cut-all/timeline").shards) > 3
    assert not list((cut / "cut-once/timeline/shards").iterdir())
    go("all", "one", config=config.model_copy(update={"workers": 1}))
    for name in ("report.json", "report.html", "profile.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert code == 10
    stars = next(change for change in report.changes if "rating" in change.signals)
    assert (stars.name, stars.first, stars.ongoing) == ("stars", "2011Q2", True)
    schema = json.loads((Path(contents.__file__).parent / "report.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "two/report.json").read_text()), schema)
    assert schema == contents.Report.model_json_schema()
    page = (tmp_path / "two/report.html").read_text()
    assert len(page) < 1_000_000
    assert not any(word in page for word in ("http:", "https:", "url("))
    assert report.headline in html.unescape(page)

    go("short", "grown")
    run, later = (untrained(cut / name / "past", tmp_path / f"run-{name}") for name in ("cut-all", "later"))
    grown, _ = go("all", "grown", run, retrained=[later], since_last=True)
    assert report.verdicts.model_fall is None
    assert grown.verdicts.model_fall.severity in ("none", "noted", "undecided")
    assert grown.new_windows == [window["name"] for window in grown.windows[2:]]
    theirs = [record["retrained.HR@10"] for record in grown.quality]
    assert [value is None for value in theirs] == [True, True, False]
    assert all(0 <= record["follow.HR@10"] <= 1 for record in grown.quality)
    ours, theirs = (
        [{**c, "window": c["window"]} for c in r.cells if c["comparison"] == "reference"]
        for r in (report, grown)
    )
    order = lambda cell: (cell["window"], cell["signal"])  # noqa: E731
    assert sorted(ours, key=order) == sorted(theirs, key=order)
    with pytest.raises(ContractError, match="at a later date"):
        go("all", "grown", run, retrained=[run], since_last=True)
    with pytest.raises(ContractError, match="config"):
        go("all", "grown", since_last=True, config=config.model_copy(update={"seed": 1}))


def test_contract_and_exit_codes(cut, tmp_path):
    assert ContractError.exit_code == 3
    folder = cut / "cut-all"
    record = json.loads((folder / "split.json").read_text())
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("past", "timeline"):
        (broken / name).symlink_to(folder / name)
    (broken / "split.json").write_text(json.dumps({**record, "cut_s": record["cut_s"] - 10**7}))
    with pytest.raises(ContractError, match="after the cut"):
        run_drift(broken, None, tmp_path / "out", DriftConfig())
    (broken / "split.json").write_text(json.dumps({**record, "cut_s": record["cut_s"] + 1}))
    with pytest.raises(ContractError, match="split again"):
        run_drift(broken, None, tmp_path / "out", DriftConfig())


def blank(**changes):
    """A report of one window without news."""
    quiet = Verdict(severity="none", now="none", new="none", since=None, sentence="", action="nothing")
    verdicts = Verdicts(pipeline=quiet, data=quiet, unseen=quiet, model_fall=None, regret=None)
    lists = ("changes", "episodes", "cells", "windows", "quality", "known_events", "reference")
    facts = {name: [] for name in lists}
    facts |= {"calibration": [], "new_windows": ["2016"], "levels": {}, "distributions": {}, "config": {}}
    facts |= {
        "versions": {},
        "headline": "",
        "verdict": "none",
        "alert": "none",
        "cut_s": 0,
        "last_window": "2016",
    }
    facts |= dict.fromkeys(("quality_reference", "smallest_fall", "past_turnover", "metadata"))
    return contents.Report(**(facts | {"verdicts": verdicts} | changes))


def test_exit_codes_of_a_report():
    failed = [{"status": "error"}]
    for config, changes, code in (
        ({}, {}, 0),
        ({}, {"alert": "drift"}, 0),
        ({"fail_on": "drift"}, {"alert": "drift"}, 10),
        ({}, {"verdict": "severe", "alert": "none"}, 0),  # said before: no alert again
        ({}, {"alert": "undecided"}, 11),
        ({"fail_on": "never"}, {"alert": "severe"}, 0),
    ):
        assert exit_code(DriftConfig(**config), blank(**changes)) == code
    broken = blank(alert="severe").model_copy(update={"cells": failed})
    assert exit_code(DriftConfig(), broken) == 1  # a hole is named before any verdict


def test_a_report_that_was_killed_while_it_was_written_is_written_anew_and_never_added_to(
    tmp_path, monkeypatch
):
    """As a retry does. Seen to fail: with the key written first, and with the key of the report before left there."""
    plant = Plant(windows=6, users=60)
    made, found = simulate(plant, 0), context(plant)
    rows = judged(found)
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    report, key = assemble(found, rows, Quality(), counts, []), {"cut_s": 1, "run": None}
    write_all(tmp_path, key, report, rows, found, ITEMS)
    assert len(read_earlier(tmp_path, key).rows) == len(rows)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "quality.parquet").write_bytes(b"of a report with a model")

    with monkeypatch.context() as patch:
        patch.setattr(store, "page", lambda report, layout: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_all(tmp_path, key, report, rows, found, ITEMS)
    with pytest.raises(ContractError, match="holds no report that was finished"):
        read_earlier(tmp_path, key)
    write_all(tmp_path, key, report, rows, found, ITEMS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert KEY_NAME in files


def test_the_run_must_have_been_trained_up_to_this_cut(cut, tmp_path):
    """The record's cut, items and data are each checked; here one of them is wrong at a time."""
    folder = cut / "cut-all"
    past, record = Manifest.load(folder / "past"), SplitRecord.load(folder)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    shutil.copy(folder / "past/items.parquet", tmp_path)
    facts = {name: "" for name, about in RunRecord.model_fields.items() if about.is_required()} | {
        "profile_values": [],
        "cut_s": record.cut_s,
        "backends": {},
        "versions": {},
        "protocol": {},
        "division": {},
    }
    facts |= dict.fromkeys(("num_users", "num_items", "num_interactions", "num_parameters", "workers"), 1)
    facts |= {"median_gap_s": 1.0, "data_sha256": data_fingerprint(past)}

    def check(**changes):
        (tmp_path / "record.json").write_text(json.dumps(facts | changes))
        check_contract(folder, record, tmp_path)

    check()
    for changes, words in (
        ({"cut_s": record.cut_s + 1}, "trained on data cut at"),
        ({"cut_s": None}, "cut at None"),
        ({"data_sha256": "0"}, "another cut"),
    ):
        with pytest.raises(ContractError, match=words):
            check(**changes)
    (tmp_path / "result.json").unlink()
    with pytest.raises(ContractError, match="has not finished its training"):
        check()
    (tmp_path / "result.json").write_text("{}")
    items = pq.read_table(folder / "past/items.parquet")
    pq.write_table(items.take(list(range(items.num_rows))[::-1]), tmp_path / "items.parquet")
    features = ItemColumns(names=("brand",), rows=2, pairs=1, dims=0)
    check(columns=DataColumns(items=features).model_dump(mode="json"))  # items that never trained come last
    with pytest.raises(ContractError, match="others"):
        check()
    others = pa.array([10**9 + number for number in range(items.num_rows)])
    pq.write_table(items.set_column(1, "source_id", others), tmp_path / "items.parquet")
    for columns in ({}, {"columns": DataColumns(items=features).model_dump(mode="json")}):
        with pytest.raises(ContractError, match="others"):
            check(**columns)


def test_a_run_goes_with_data_that_has_grown(cut):
    """Two files, one the beginning of the other, cut at the same second: the same past, although the source differs."""
    short, whole = (Manifest.load(cut / f"cut-{name}/past") for name in ("short", "all"))
    assert short.source != whole.source
    assert data_fingerprint(short) == data_fingerprint(whole)
    other = whole.model_copy(update={"filters": whole.filters.model_copy(update={"k_core": 5})})
    assert data_fingerprint(other) != data_fingerprint(whole)


def test_the_error_of_estimated_bins_reaches_each_test(monkeypatch):
    """Of the right windows; the halves of the control share their percentiles."""
    found, calls = context(Plant(windows=6, users=30, popularity=3.0, step=5, returning=0.9)), []

    def huge(profile, layout, ref, cur, lookback):
        calls.append((list(ref), cur, lookback))
        noise = percentile_noise(profile, layout, ref, cur, lookback)
        return replace(noise, root_BB=np.eye(len(noise.root_BB)))

    def popularity(comparison):
        return next(r for r in run_cell(found, Cell(comparison, 5)) if r.signal == "popularity")

    assert popularity("reference").p <= 0.01
    monkeypatch.setattr(cells_module, "percentile_noise", huge)
    for comparison in ("reference", "previous", "returning"):
        assert popularity(comparison).p > 0.5
    assert calls == [([2], 5, 4), ([4], 5, 4), ([2], 5, 4)]
    popularity("control")
    assert len(calls) == 3
