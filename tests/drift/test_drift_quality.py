"""Model quality: the split of a change, strata, verdicts, and targets that see nothing later."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from drift.calendar import calendar
from drift.config import DriftConfig
from drift.model.followers import count_pairs, follow_scores
from drift.model.quality import (
    Baselines,
    QualityTask,
    decompose,
    quality_severity,
    rank,
    shuffled,
    summarise,
    targets,
)
from drift.model.retrained import remap
from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.batch import collate_eval
from ss4rec.data.batches.windows import eval_sequences
from ss4rec.model.ss4rec import SS4Rec

SIDE = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(SIDE, SIDE)
def test_mix_and_within_add_up_to_the_change(ref, cur):
    (ref_stratum, ref_hit), (cur_stratum, cur_hit) = (np.array(side, float).T for side in (ref, cur))
    mix, within = decompose(ref_hit, ref_stratum, cur_hit, cur_stratum)
    assert mix + within == pytest.approx(cur_hit.mean() - ref_hit.mean(), abs=1e-12)


def test_mix_alone_and_within_alone():
    hits, stratum = np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert decompose(hits, stratum, np.array([1.0, 0, 0, 0]), np.array([0, 1, 1, 1])) == pytest.approx(
        (-0.25, 0)
    )
    assert decompose(hits, stratum, np.array([1.0, 0, 0, 0]), stratum) == pytest.approx((0, -0.25))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "drift"), ({"drop": 0.05}, "noted"), ({"drop": 0.3}, "severe"), ({"drop": -0.3}, "noted"),
     ({"p_adj": 0.2}, "none"), ({"p_adj": float("nan")}, "none"), ({"n_users": 10}, "undecided")],
)  # fmt: skip
def test_quality_severity(changes, expected):
    record = {"n_users": 400, "p_adj": 0.01, "drop": 0.15, **changes}
    assert quality_severity(record, 400, DriftConfig()) == expected


WINDOWS = calendar("year", 0, 3 * 365 * 86_400)
YEAR = 365 * 86_400
SHARD = pa.table(
    {
        "user": pa.array([0, 1, 2], pa.int32()),
        "items": pa.array([[1, 19, 2, 3], [4, 5], [6, 7, 19]], pa.list_(pa.int32())),
        "timestamps": pa.array(
            [[10, 20, 30, YEAR + 5], [YEAR, YEAR + 9], [YEAR, YEAR + 1, YEAR + 2]], pa.list_(pa.int64())
        ),
        "ratings": pa.array([[3.0] * 4, [3.0] * 2, [3.0] * 3], pa.list_(pa.float32())),
    }
)


FOLLOW = csr_matrix(([5, 2], ([2, 2], [9, 4])), shape=(13, 13))
"""Item 9 came five times after item 2, item 4 twice."""


def task(share=1.0):
    return QualityTask(
        config=DriftConfig(permutations=50, bootstrap=20, min_users=1),
        data=DataConfig(max_len=8, overlap=2),
        windows=WINDOWS,
        chosen={1: share},
        cut_s=YEAR - 1,
        vocabulary=12,
        baselines=Baselines(np.arange(13), {1: np.arange(13)[::-1].copy()}, FOLLOW),
    )


def test_targets_have_only_earlier_known_items_before_them():
    rows = {row["user"]: row for row in targets(SHARD, task()).to_pylist()}
    assert rows[0]["items"] == [1, 2, 3]  # 19 is outside the vocabulary
    assert (rows[0]["known"], rows[0]["history"], rows[0]["unseen"]) == (True, 2, False)
    assert 1 not in rows  # one event before the target is no history
    if 2 in rows:
        assert rows[2] | {"items": [6, 7, 1], "unseen": True, "known": False} == rows[2]
    assert targets(SHARD, task(0.0)) is None


def test_ranks_and_summary():
    torch.manual_seed(0)
    model = SS4Rec(ModelConfig(dim=8, blocks=1, time_states=4, relation_states=4), 12).eval()
    rng = np.random.default_rng(0)
    users = 40
    items = [rng.permutation(np.arange(1, 13))[:5] for _ in range(users)]
    shard = pa.table(
        {
            "user": pa.array(range(users), pa.int32()),
            "items": pa.array(items, pa.list_(pa.int32())),
            "timestamps": pa.array([[1, 2, 3, 4, YEAR + 5]] * users, pa.list_(pa.int64())),
            "ratings": pa.array([[3.0] * 5] * users, pa.list_(pa.float32())),
        }
    )
    the_task = task()
    chosen = targets(shard, the_task)
    found = rank(model, chosen, the_task)
    for row, sequence in zip(found.to_pylist(), items, strict=True):
        left = [i for i in range(1, 13) if i not in sequence[:4]]
        assert row["pop_frozen"] == 1 + sum(i > sequence[4] for i in left)
        assert row["pop_rolling"] == 1 + sum(i < sequence[4] for i in left)
        score = {i: (sequence[3] == 2) * {9: 5, 4: 2}.get(i, 0) + i / 79 for i in range(1, 13)}
        assert row["follow"] == 1 + sum(score[i] > score[sequence[4]] for i in left)
        assert 1 <= row["model"] <= 8
    unseen = chosen.set_column(chosen.column_names.index("unseen"), "unseen", pa.array([True] * users))
    assert np.isinf(rank(model, unseen, the_task)["model"].to_numpy()).all()

    alone = rank(model, chosen, replace(the_task, baselines=None))
    assert alone["model"].equals(found["model"])
    assert "follow" not in alone.column_names

    later = found.set_column(1, "window", pa.array([2] * users, pa.int32()))
    lost = later.set_column(later.column_names.index("model"), "model", pa.array([np.inf] * users))
    better = later.slice(10).set_column(later.column_names.index("model"), "model", pa.array([1.0] * 30))
    both = pa.concat_tables([found, lost])
    first, second = summarise(both, [(1, "a"), (2, "b")], the_task.config, 12, better)
    assert (first["retrained.HR@10"], first["retrained.users"]) == (None, 0)
    assert (second["retrained.HR@10"], second["retrained.users"]) == (1.0, 30)
    assert (first["severity"], second["severity"]) == ("none", "severe")
    assert first["all.HR@10"] == 1.0
    assert second["drop"] == 1.0
    assert second["hidden_p"] > 0.05  # the same users' states


def test_shuffling_moves_items_within_their_sequence_only():
    sequences = eval_sequences(targets(SHARD, task()), split="test", max_len=8, target_time=True)
    batch = collate_eval(sequences)
    mixed = shuffled(batch, np.random.default_rng(1))
    for start, stop in zip(batch.offsets_S1[:-1], batch.offsets_S1[1:], strict=True):
        assert sorted(batch.items_T[start:stop]) == sorted(mixed.items_T[start:stop])


def test_pairs_of_the_past_only():
    """User 0: 1, (19), 2, 3 by the cut; items outside of the vocabulary are no link, users do not run together."""
    assert sorted(zip(*count_pairs(SHARD, 12, YEAR - 1).nonzero(), strict=True)) == [(1, 2)]
    found = count_pairs(SHARD, 12, YEAR + 5)
    pairs = {(int(a), int(b)): int(found[a, b]) for a, b in zip(*found.nonzero(), strict=True)}
    assert pairs == {(1, 2): 1, (2, 3): 1, (6, 7): 1}
    assert (count_pairs(SHARD, 12, YEAR + 5) + found)[1, 2] == 2
    np.testing.assert_allclose(
        follow_scores(found, np.array([1]), np.arange(13))[0], (np.arange(13) == 2) + np.arange(13) / 79
    )


def test_a_retrained_model_sees_the_same_events_in_its_own_numbers():
    """Its vocabulary is 19, 2, 1: item 19, which the frozen model never saw, is one it knows."""
    timeline = pa.chunked_array([[100 + i for i in range(1, 20)]])
    own = remap(timeline, pa.chunked_array([[119, 102, 101]]))
    assert own.tolist() == [0, 3, 2, *[4] * 16, 1]
    rows = targets(SHARD, replace(task(), remap_V=own, vocabulary=3)).to_pylist()
    assert [(row["user"], row["items"], row["unseen"]) for row in rows] == [(0, [3, 1, 2, 1], True)]
