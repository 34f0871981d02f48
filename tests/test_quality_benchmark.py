"""The quality benchmark's own arithmetic: rows, means over seeds, headline figures, and what a peer is given."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.quality import __main__ as quality
from benchmarks.quality.batches import training_events
from benchmarks.quality.best_epoch import BestEpoch
from benchmarks.quality.curves import draw
from benchmarks.quality.gru4rec import GRU4RecScorer, training_sessions
from benchmarks.quality.peers import RecToolsScorer, unique_ids
from benchmarks.quality.rows import GROUPS, Row
from benchmarks.quality.table import headlines, markdown, merged, write_curves
from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.evaluation.evaluator import SETTINGS, rank_column, summarise
from ss4rec.evaluation.popularity import MostPopular
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol


@pytest.mark.parametrize("row", [row for group in GROUPS.values() for row in group], ids=lambda row: row.name)
def test_each_row_survives_the_command_line_and_has_a_configuration(row):
    assert Row.parse(row.text) == row
    if row.preset != "peer":
        assert row.config(3, 1.0).train.seed == 3


@pytest.fixture
def results(tmp_path):
    """Two seeds of a row whose ranks are known, and a row that failed."""
    made = []
    for seed, first in enumerate((1, 2)):
        ranks = {rank_column(*setting): np.array([first, 3.0, 50.0, 50.0]) for setting in SETTINGS}
        folder = tmp_path / f"best-{seed}"
        folder.mkdir()
        np.savez(folder / "ranks.npz", user=np.arange(4), **ranks)
        test = summarise(pa.table({"user": np.arange(4), **ranks}), (10,)).model_dump(mode="json")
        curve = [[1, 2.0, 5.0, 0.1, 0.2, 0.3], [2, 4.0, 4.0, 0.4 + seed / 10, 0.5, 0.6]]
        run = {
            "name": "best",
            "row": "best: paper",
            "seed": seed,
            "test": test,
            "curve": curve,
            "seconds": 60.0,
        }
        run |= {"config": {"dim": 8}} | ({"fingerprint": "f"} if seed else {})  # the first is like a peer
        run |= {"outcome": {"best_epoch": 2}, "runs_on_card": 1, "passed": {"seconds": 30.0 + 10 * seed}}
        made.append(run)
    made.append({"name": "broken", "row": "broken: paper", "seed": 0, "error": "no memory"})
    return merged(made, tmp_path)


def test_means_and_headlines_are_over_seeds_and_a_failure_stays_visible(results, tmp_path):
    best, broken = results
    gains = [(1 + 0.5) / 4, (1 / np.log2(3) + 0.5) / 4]
    ndcg = best["test"]["kept, known, NDCG@10"]
    assert ndcg["mean"] == pytest.approx(np.mean(gains))
    assert ndcg["half_range"] == pytest.approx((gains[0] - gains[1]) / 2)
    assert ndcg["interval"][0] <= ndcg["mean"] <= ndcg["interval"][1]
    assert best["valid"]["kept NDCG@10"] == pytest.approx({"mean": 0.45, "half_range": 0.05})
    found = {item["name"]: item["value"] for item in headlines(results, "best", "best")}
    assert found["quality.seen_excluded.hr10"] == 0.5
    assert found["quality.no_target_time.ndcg10"] == pytest.approx(np.mean(gains))
    assert (found["quality.seconds_to_0.2022"], found["quality.total_minutes"]) == (35.0, 1.0)
    table = markdown(results)
    assert "| best | 2 | 2 | 1.0 | .4500 ±500 |" in table
    assert broken["error"] == "no memory"
    assert "failed: 'no memory'" in table
    curves = write_curves("quality", results, tmp_path)
    assert "curve" not in best["runs"][0]
    assert ["config" in run for run in best["runs"]] == [True, False]
    draw(curves, tmp_path / "one.png", [])
    draw(curves, tmp_path / "two.png", [])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_difference_to_the_first_row_is_between_the_same_users(tmp_path):
    generator = np.random.default_rng(0)
    hard_U = generator.integers(1, 40, 400).astype(float)
    made = []
    for name, ranks_U in (("first", hard_U), ("better", np.maximum(1, hard_U - 1))):
        ranks = {rank_column(*setting): ranks_U for setting in SETTINGS}
        (tmp_path / f"{name}-0").mkdir()
        np.savez(tmp_path / f"{name}-0" / "ranks.npz", user=np.arange(400), **ranks)
        test = summarise(pa.table({"user": np.arange(400), **ranks}), (10,)).model_dump(mode="json")
        made.append({"name": name, "row": name, "seed": 0, "test": test, "seconds": 1.0})
    first, better = merged(made, tmp_path)
    assert "difference" not in first
    means = [row["test"]["excluded, known, NDCG@10"]["mean"] for row in (first, better)]
    assert better["difference"]["mean"] == pytest.approx(means[1] - means[0])
    low, high = better["difference"]["interval"]
    assert 0 < low < means[1] - means[0] < high
    whole = better["test"]["excluded, known, NDCG@10"]["interval"]
    assert high - low < (whole[1] - whole[0]) / 2  # users differ from one another more than rows do


def test_a_table_keeps_what_it_measured_of_the_same_row_and_seed(tmp_path):
    found = {"row": "best: ml_1m_best", "seconds": 3.0, "data": "ml-1m", "test": {}}
    (tmp_path / "best-1").mkdir()
    (tmp_path / "best-1" / "quality.json").write_text(json.dumps(found))
    row, data = Row("best", "ml_1m_best"), Path("folder/ml-1m")
    assert quality._kept(row, 1, data, tmp_path, True) == found
    assert quality._kept(row, 0, data, tmp_path, True) is None
    assert quality._kept(Row("best", "ml_1m_best", ("optim.lr=1e-3",)), 1, data, tmp_path, True) is None
    assert quality._kept(row, 1, Path("ml-100k"), tmp_path, True) is None
    assert quality._kept(row, 1, data, tmp_path, False) is None  # it has looked at test items


def test_a_peer_is_given_items_and_times_as_it_was_trained_with_them(prepared):
    data = DataConfig(max_len=200, overlap=0)
    batch = next(LocalSource(prepared, data, batch_size=4, seed=0).eval_batches("valid", 5))
    scorer = RecToolsScorer(torch.nn.Linear(1, 1), np.array([0, 7, 3, *range(8, 120)]), 119, True, 11.0)
    for known in (True, False):
        inputs = scorer._inputs(batch, known)
        for user in range(5):
            first, last = batch.offsets_S1[user : user + 2].tolist()
            length = last - first
            items = batch.items_T[first:last]
            index = {item: place for place, item in enumerate(scorer.items_N.tolist())}
            assert inputs["x"][user, -length:].tolist() == [index.get(item, 0) for item in items.tolist()]
            assert not inputs["x"][user, :-length].any()
            moment = batch.target_times_S[user] if known else batch.last_times_S[user] + 11
            times = [int(moment)]
            gaps = batch.gaps_T[first:last].clone()
            gaps[-1] = gaps[-1] if known else 11
            for gap in reversed(gaps.tolist()):
                times.insert(0, times[0] - round(gap))
            assert inputs["unix_ts"][user, -length - 1 :].tolist() == times
            assert set(inputs["unix_ts"][user, : -length - 1].tolist()) <= {times[0]}


def test_a_peer_that_asks_with_a_mask_has_one_place_less(prepared):
    batch = next(
        LocalSource(prepared, DataConfig(max_len=6, overlap=0), batch_size=4, seed=0).eval_batches("test", 4)
    )
    scorer = RecToolsScorer(torch.nn.Linear(1, 1), np.arange(121), 120, False, 11.0, session_len=6, mask=999)
    for row, (first, last) in zip(
        scorer._inputs(batch, True)["x"].tolist(), pairwise(batch.offsets_S1.tolist()), strict=True
    ):
        assert row == [*([0] * (5 - (last - first))), *batch.items_T[first:last].tolist()[-5:], 999]


def test_runs_stay_on_the_cards_they_were_given(monkeypatch):
    """Seen to fail: with cards counted from 0, which put trainings beside a benchmark on another card."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7f2a")
    assert quality.visible_cards() == ["3", "GPU-7f2a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(quality.torch.cuda, "device_count", lambda: 2)
    assert quality.visible_cards() == ["0", "1"]


@pytest.mark.parametrize("values", [("PAD", "PAD", 3), np.array([7, 5, 7]), [4, 4]])
def test_ids_may_come_as_tuples(values):
    assert unique_ids(values).tolist() == list(dict.fromkeys(values))


def test_a_recurrent_peer_is_given_the_end_of_each_history(prepared):
    config = DataConfig(max_len=6, overlap=0)
    batch = next(LocalSource(prepared, config, batch_size=4, seed=0).eval_batches("test", 4))
    items_BL, lengths_B = GRU4RecScorer(None, session_len=4).inputs(batch)
    for row, length, (first, last) in zip(
        items_BL.tolist(), lengths_B.tolist(), pairwise(batch.offsets_S1.tolist()), strict=True
    ):
        own = batch.items_T[first:last].tolist()[-4:]
        assert row == own + [0] * (4 - len(own))
        assert length == len(own)


def test_a_recurrent_peer_trains_on_the_last_training_events_of_each_user(prepared):
    plan = make_plan(Protocol(), prepared)
    events = list(training_events(prepared, plan))
    users_E, items_E = (np.concatenate([part[n] for part in events]) for n in (0, 1))
    sessions = training_sessions(prepared, plan, 9)
    users = [user for user in np.unique(users_E) if (users_E == user).sum() >= 2]
    assert len(sessions) == len(users)
    for row, user in zip(sessions.tolist(), users, strict=True):
        own = items_E[users_E == user].tolist()[-9:]
        assert row == own + [0] * (9 - len(own))


def test_the_best_epoch_is_kept_and_patience_ends(prepared):
    plan = make_plan(Protocol(), prepared)
    good, bad = np.zeros(plan.num_items + 1, np.int64), np.zeros(plan.num_items + 1, np.int64)
    best = BestEpoch(prepared, plan, 20, minutes=5, every=1, patience=2)
    targets = np.concatenate([batch.targets_S.numpy() for batch in best.batches])
    np.add.at(good, targets, 1)
    bad[1:] = good.max() - good[1:]
    module = torch.nn.Linear(1, 1, bias=False)
    ends = []
    for epoch, counts in enumerate((bad, good, bad, bad), 1):
        torch.nn.init.constant_(module.weight, epoch)
        ends.append(best.look(epoch, MostPopular(counts), module, 0.0))
    assert ends == [False, False, False, True]
    assert best.epoch == 2
    assert best.weights["weight"].item() == 2.0
    assert best.facts(module)["outcome"]["epochs"] == 4
