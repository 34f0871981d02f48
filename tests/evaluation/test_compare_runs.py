"""Comparing runs: what may be compared, recipes by seed, words, pages and the two verbs."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ss4rec.cli.compare import compare_command
from ss4rec.cli.show import show_command
from ss4rec.errors import DataError, UsageError
from ss4rec.evaluation.compare import Row, compare_runs, words
from ss4rec.evaluation.compare_page import comparison_page
from ss4rec.evaluation.run_page import division_words, pause_words, run_page
from ss4rec.evaluation.significance import Difference
from ss4rec.runs.folder import CONFIG_FILE
from tests.browser import needs_browser, require_readable, require_self_contained


def copy_of(run, path, *, seed=None, better=None, dim=None):
    """Copy a run, with another seed or configuration, or with better ranks."""
    shutil.copytree(run, path)
    config = json.loads((path / CONFIG_FILE).read_text())
    config["train"]["seed"] = config["train"]["seed"] if seed is None else seed
    config["model"]["dim"] = dim or config["model"]["dim"]
    (path / CONFIG_FILE).write_text(json.dumps(config))
    if better:
        ranks = path / "evaluation" / "test" / "ranks.parquet"
        table = pq.read_table(ranks)
        for number, name in enumerate(table.column_names):
            if name.startswith("model/rank"):
                values = np.maximum(1, np.floor(table[name].to_numpy() / better)).astype(np.float32)
                table = table.set_column(number, name, [values])
        pq.write_table(table, ranks)
    return path


@pytest.fixture
def runs(evaluated, tmp_path):
    """Two seeds of one recipe, and two of a better one."""
    return [
        copy_of(evaluated, tmp_path / "plain-seed1", seed=1),
        copy_of(evaluated, tmp_path / "plain-seed2", seed=2),
        copy_of(evaluated, tmp_path / "better-seed1", seed=1, better=3, dim=16),
        copy_of(evaluated, tmp_path / "better-seed2", seed=2, better=3, dim=16),
    ]


def test_a_better_recipe_is_found_over_seeds_and_by_segment(runs):
    found = compare_runs(runs)
    assert [(recipe.name, len(recipe.runs)) for recipe in found.recipes] == [("plain", 2), ("better", 2)]
    assert [row.metric for row in found.rows] == ["NDCG@10", "HR@10", "MRR@10"]
    assert all(row.is_found and row.difference.mean > 0 for row in found.rows)
    assert all(row.p_adjusted >= row.difference.p for row in found.rows)
    assert all(not row.is_found for row in found.segments if row.too_small)
    assert {row.segmentation for row in found.segments} >= {"history length", "popularity of the item"}


def test_the_same_run_twice_differs_by_nothing(evaluated, tmp_path):
    found = compare_runs([evaluated, copy_of(evaluated, tmp_path / "again", dim=16)])
    assert [row.difference.p for row in found.rows] == [1.0, 1.0, 1.0]
    assert "No difference between small and again that could not be luck" in words(found.rows[0])


def test_one_run_is_compared_with_its_best_baseline(evaluated):
    found = compare_runs([evaluated])
    assert found.recipes[0].name in ("most popular", "Markov chain")
    assert found.recipes[1].name == "small"


def test_words():
    difference = Difference(0.2, 0.212, 0.008, 0.016, 0.0001, 5000)
    row = Row("A", "B", "HR@10", difference, 0.0003)
    assert words(row) == (
        "B finds the next item among its first 10 for 12 more users in 1,000 than A (95 %: 8 to 16; p < 0.001)"
    )
    worse = Row("A", "B", "NDCG@10", Difference(0.212, 0.2, -0.016, -0.008, 0.01, 5000), 0.02)
    assert words(worse) == (
        "A has a higher NDCG@10 than B: 0.2120 against 0.2000, +0.0120 (95 %: +0.0080 to +0.0160; p = 0.0200)"
    )


def change(run, column=None, protocol=None, split=None):
    folder = run / "evaluation" / "test"
    if column:
        table = pq.read_table(folder / "targets.parquet")
        place = table.column_names.index(column)
        values = table[column].to_numpy().copy()
        values[0] += 1
        pq.write_table(
            table.set_column(place, table.schema.field(place), [values]), folder / "targets.parquet"
        )
    record = json.loads((folder / "result.json").read_text())
    record["protocol"] |= protocol or {}
    (folder / "result.json").write_text(json.dumps(record | ({"split": split} if split else {})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": "user"}, "were ranked on different events: 150 and 149 users"),
        ({"column": "target"}, "were ranked on different events"),
        ({"protocol": {"max_history": 7}}, "different protocols: max_history is None and 7"),
        ({"split": "valid"}, "different protocols: test and validation events"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(evaluated, tmp_path, changes, message):
    other = copy_of(evaluated, tmp_path / "other", dim=16)
    change(other, **changes)
    with pytest.raises(UsageError, match=message):
        compare_runs([evaluated, other])


def test_other_items_and_missing_evaluations_are_refused(evaluated, tmp_path):
    other = copy_of(evaluated, tmp_path / "other", dim=16)
    items = pq.read_table(other / "items.parquet")
    pq.write_table(items.slice(1), other / "items.parquet")
    with pytest.raises(UsageError, match="small and other rank different items"):
        compare_runs([evaluated, other])
    shutil.rmtree(other / "evaluation")
    with pytest.raises(DataError, match="run other has no evaluation 'test' with ranks"):
        compare_runs([evaluated, other])


def test_what_does_not_matter_is_noted(evaluated, tmp_path):
    other = copy_of(evaluated, tmp_path / "other", dim=16)
    change(other, protocol={"ties": "file"})
    assert compare_runs([evaluated, other]).notes == (
        "small and other differ in protocol.ties: prepared and file",
    )


def test_seeds_of_one_recipe_are_compared_as_runs(runs):
    found = compare_runs(runs[:2])
    assert [recipe.name for recipe in found.recipes] == ["plain-seed1", "plain-seed2"]
    assert not any(row.is_found for row in found.rows)
    assert found.notes[-1].startswith("the runs are of one recipe and differ in their seed alone")


def test_a_run_twice_and_unknown_metrics_are_refused(evaluated, runs):
    with pytest.raises(UsageError, match="given twice"):
        compare_runs([evaluated, evaluated])
    with pytest.raises(UsageError, match="no metric 'HIT@10'"):
        compare_runs(runs, metrics=["HIT@10"])


def test_the_verbs_fit_80_columns_and_write_their_pages(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(show_command, [str(runs[0])], catch_exceptions=False)
    assert "NDCG@10 by segment" in shown.output
    assert (runs[0] / "report.html").is_file()
    page = tmp_path / "c.html"
    arguments = [*map(str, runs), "--out", str(page), "--all-pairs", "--seen", "excluded"]
    compared = CliRunner().invoke(compare_command, arguments, catch_exceptions=False)
    assert "better finds the next item among its first 10 for" in compared.output.replace("\n", " ")
    assert page.is_file()
    lines = (shown.output + compared.output).splitlines()
    assert max(len(line) for line in lines if not line.startswith(("page:", "next:", "      "))) <= 80
    found = json.loads(
        CliRunner().invoke(compare_command, [*arguments, "--json"], catch_exceptions=False).output
    )
    assert found["rows"][0]["found"]
    about = json.loads(
        CliRunner().invoke(show_command, [str(runs[0]), "--json"], catch_exceptions=False).output
    )
    assert about["results"]["model"]["num_users"] == 150
    assert {row["segmentation"] for row in about["segments"]} >= {"history length", "popularity of the item"}


def test_segments_by_another_metric(evaluated, tmp_path):
    """In words, in JSON and on the page; recall of one held-out item is the hit rate."""
    run = copy_of(evaluated, tmp_path / "again")

    def show(metric):
        shown = CliRunner().invoke(
            show_command, [str(run), "--metric", metric, "--json"], catch_exceptions=False
        )
        return json.loads(shown.output)["segments"]

    assert show("recall@5") == show("HR@5") != show("MRR@5")
    assert "MRR@5 by segment" in (run / "report.html").read_text()
    text = CliRunner().invoke(show_command, [str(run), "--metric", "MAP@5"], catch_exceptions=False).output
    assert "MAP@5 by segment" in text
    with pytest.raises(UsageError, match="no metric 'recall'; choose one such as HR@10"):
        show("recall")


def test_a_run_that_was_not_evaluated_has_a_page(evaluated, tmp_path):
    run = copy_of(evaluated, tmp_path / "young")
    for name in ("evaluation", "checkpoints"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    (run / "record.json").unlink()
    assert "young: not evaluated yet" in run_page(run)


@needs_browser
def test_pages_are_readable_at_every_width(runs, tmp_path):
    page = run_page(runs[0])
    require_self_contained(page)
    names = require_readable(page, tmp_path)
    assert {"Loss", "Validation", "NDCG@10", "Exposure", "history length", "item genres"} <= set(names)
    compared = comparison_page(compare_runs(runs))
    require_self_contained(compared)
    assert "history length" in require_readable(compared, tmp_path)


def test_pauses():
    assert [pause_words(s) for s in (0, 1, 90, 7200, 86_400 * 3, 86_400 * 800)] == [
        "in the same second", "1 second later", "1 minute later", "2 hours later", "3 days later", "2 years later",
    ]  # fmt: skip


def test_a_division_in_words():
    cut = {"train_rows": 90, "train_users": 9, "later_events": 10, "later_users": 3, "cut_s": 5}
    parts = {
        "fit_rows": 80,
        "fit_users": 8,
        "valid_targets": 4,
        "valid_users": 4,
        "test_targets": 10,
        "test_users": 3,
    }
    assert division_words(cut | parts | {"test_cold_targets": 2, "valid_cold_targets": 0}) == (
        "90 events of 9 users up to the cut; 10 events of 3 users after it; 80 events of 8 users train; "
        "4 events of 4 users choose the model; 10 events of 3 users test, 2 of items that never trained"
    )
