"""The benchmarks of comparisons and of list metrics: what is drawn is what was measured, and records say so."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import compare, list_metrics
from ss4rec.evaluation.metrics import ndcg


def test_what_users_and_seeds_differ_by_is_read_from_records_of_ml_1m():
    spread, seeds_differ = compare.measured()
    assert 0.07 < spread < 0.1
    assert 0.0008 < seeds_differ < 0.0016


def test_drawn_recipes_differ_as_much_as_measured_ones():
    level = compare.level_of(compare.NDCG)
    agree = compare.agreement(0.08, level, users=20_000)
    draw = compare.Draw(40_000, (level, level), compare.SEEDS, agree)
    first, second = (ndcg.gains(ranks, 10) for ranks in draw.pair(np.random.default_rng(5)))
    assert (second.mean(0) - first.mean(0)).std() == pytest.approx(0.08, rel=0.05)
    assert first.mean() == pytest.approx(compare.NDCG, rel=0.03)


def test_a_large_difference_is_found_and_none_is_not():
    level, better = compare.level_of(compare.NDCG), compare.level_of(1.3 * compare.NDCG)
    same, other = (compare.Draw(500, (level, second), 1, 0.95) for second in (level, better))
    assert all(all(compare.found(other, 199, number)) for number in range(3))
    assert sum(any(compare.found(same, 199, number)) for number in range(8)) <= 2


def test_list_metrics_are_those_of_all_batches_and_small_runs_have_no_headline(tmp_path, monkeypatch):
    monkeypatch.setattr(list_metrics, "ITEMS", 300)
    monkeypatch.setattr(list_metrics, "BATCH", 64)
    item_facts, batches = list_metrics.draw_lists(150, torch.device("cpu"))
    assert [len(batch[1]) for batch in batches] == [64, 64, 22]
    values, seconds = list_metrics.measure(batches, item_facts)
    assert set(seconds) == {"histories", "lists", "result"}
    shown = torch.cat([batch[0] for batch in batches]).unique()
    assert values["coverage"] == pytest.approx(len(shown) / 300)
    assert all(value is not None for value in values.values())
    CliRunner().invoke(list_metrics.main, ["--smoke", "--out", str(tmp_path)], catch_exceptions=False)
    record = json.loads(next(tmp_path.glob("list-metrics-smoke-*.json")).read_text())
    assert record["headline"] == []
    assert record["rows"][0]["users"] == 200
