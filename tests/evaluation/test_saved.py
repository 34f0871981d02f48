"""What an evaluation keeps: ranks that give the same metrics again, lists without seen items, facts of each target."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.errors import DataError
from ss4rec.evaluation.evaluator import SETTINGS, rank_column
from ss4rec.evaluation.metrics import auc, hit_rate, ndcg
from ss4rec.evaluation.recommended import RECENT
from ss4rec.evaluation.saved import load_evaluation, saved_evaluations


def histories_of(prepared):
    manifest = Manifest.load(prepared)
    found = []
    for path in PreparedFolder.open(prepared).shard_paths:
        items_E, offsets_U1 = ragged(read_shard(path, manifest.items)["items"])
        found += [items_E[a:b] for a, b in zip(offsets_U1, offsets_U1[1:], strict=False)]
    return found


def test_ranks_that_were_kept_give_the_metrics_again(evaluated):
    saved = load_evaluation(evaluated)
    assert saved.scorers == ["model", "most popular", "Markov chain"]
    for name, result in saved.record.results.items():
        for setting in SETTINGS:
            ranks_U = saved.ranks_of(name, setting)
            metrics = result.setting(*setting).metrics
            assert metrics["NDCG@10"] == pytest.approx(ndcg(ranks_U, 10), abs=1e-12)
            assert metrics["HR@5"] == pytest.approx(hit_rate(ranks_U, 5), abs=1e-12)
            candidates = (
                saved.targets["unseen"].to_numpy() if setting[0] == "excluded" else saved.record.num_items
            )
            assert metrics["AUC"] == pytest.approx(auc(ranks_U, candidates).mean(), abs=1e-12)


def test_facts_of_each_target(evaluated, prepared):
    saved, manifest = load_evaluation(evaluated), Manifest.load(prepared)
    histories = histories_of(prepared)
    trained = np.bincount(np.concatenate([items[:-2] for items in histories]), minlength=manifest.items + 1)
    rows = zip(
        saved.targets.to_pylist(),
        saved.ranks["list"].to_pylist(),
        saved.ranks["recent"].to_pylist(),
        strict=True,
    )
    for row, top, recent in rows:
        *history, target = histories[row["user"]].tolist()
        assert row["target"] == target
        assert row["repeat"] == (target in history)
        assert row["unseen"] == manifest.items - len(set(history) - {target})
        assert row["target_events"] == trained[target]
        assert recent == [0] * (RECENT - len(history)) + history[-RECENT:]
        assert len(set(top)) == 10
        assert min(top) >= 1


def test_a_target_at_rank_one_to_ten_is_on_the_list(evaluated):
    saved = load_evaluation(evaluated)
    targets, lists = saved.targets["target"].to_pylist(), saved.ranks["list"].to_pylist()
    for rank, top, target in zip(saved.ranks_of(), lists, targets, strict=True):
        assert (target in top) == (rank <= 10)
        if target in top:
            assert top.index(target) + 1 == rank


def test_list_metrics_are_in_the_result(evaluated):
    record = load_evaluation(evaluated).record
    model, popular = (record.results[name].lists for name in ("model", "most popular"))
    assert model.feature == "genres"
    assert None not in model.metrics.values()
    assert popular.metrics["personalisation"] == pytest.approx(
        0
    )  # all get the same list, as seen items are kept
    assert popular.metrics["coverage"] < model.metrics["coverage"]
    assert sum(model.exposure) == pytest.approx(1)
    assert popular.exposure[0] == pytest.approx(1)


def test_what_is_missing_or_damaged_is_said(evaluated, tmp_path, prepared):
    assert saved_evaluations(evaluated) == ["test"]
    with pytest.raises(DataError, match=r"run small has no evaluation 'valid' with ranks \(it has test\)"):
        load_evaluation(evaluated, "valid")
    with pytest.raises(DataError, match="is not a run folder"):
        load_evaluation(tmp_path)


def test_files_are_small(evaluated):
    folder = evaluated / "evaluation" / "test"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ranks.parquet",
        "result.json",
        "targets.parquet",
    ]
    columns = pq.read_schema(folder / "ranks.parquet").names
    assert f"Markov chain/{rank_column('kept', 'known')}" in columns
