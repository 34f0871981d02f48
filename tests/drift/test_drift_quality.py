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
from drift.model.count_ranks import Seen, count_ranks, follower_ranks
from drift.model.followers import count_pairs
from drift.model.held_out import held_out
from drift.model.names import BEFORE_CUT
from drift.model.quality import decompose, quality_severity, summarise
from drift.model.rank import Baselines, RankTask, rank_shard
from drift.model.retrained import remap
from drift.model.targets import TargetChoice, choose_targets, pack, spread
from ss4rec.config import DataConfig, ModelConfig, override
from ss4rec.data.ids import stable_keys
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Feature
from ss4rec.model.columns import EVENT_CODES, EventColumn
from ss4rec.model.last_state import encode_last
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.train.worker import train_alone

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


def task(users=(0, 1, 2), window=1, **changes):
    choice = TargetChoice(
        data=DataConfig(max_len=8, overlap=2),
        windows=WINDOWS,
        users={window: np.array(users)},
        cut_s=YEAR - 1,
        vocabulary=12,
        **changes,
    )
    return RankTask(
        choice, seed=1, baselines=Baselines(np.arange(13), {1: np.arange(13)[::-1].copy()}, FOLLOW)
    )


def test_targets_have_only_earlier_known_items_before_them():
    found = {one.user[0]: one for one in choose_targets(SHARD, task().choice)}
    one, path, rows = found[0], *found[0].passes[0]
    assert (one.item, one.known, one.history, rows) == ([3], [True], [2], [0])
    assert path.items_T.tolist() == [1, 2]  # 19 is outside the vocabulary
    assert path.times_T.tolist() == [10, 30, YEAR + 5]
    assert [items.tolist() for items in one.seen] == [[1, 2]]
    assert 1 not in found  # one event before the target is no history
    assert (found[2].item, found[2].known, found[2].passes) == (
        [0],
        [False],
        [],
    )  # an unseen item has no rank
    assert choose_targets(SHARD, task(users=()).choice) == []


def test_held_out_events_before_the_cut_are_the_last_known_ones():
    """Training left them out; they count from the reference on."""
    early = pa.table({
        "user": SHARD["user"],
        "items": pa.array([[1, 19, 2, 3, 5], [4, 5], [6, 7, 19]], pa.list_(pa.int32())),
        "timestamps": pa.array([[10, 20, 30, 40, YEAR], [1, 2], [5, 6, 7]], pa.list_(pa.int64())),
        "ratings": pa.array([[3.0] * 5, [3.0] * 2, [3.0] * 3], pa.list_(pa.float32())),
    })  # fmt: skip
    found = choose_targets(early, task(window=BEFORE_CUT).choice)
    assert [(one.user, one.item, one.window) for one in found] == [([0], [3], [BEFORE_CUT])]
    assert choose_targets(early, task(window=BEFORE_CUT, reference_s=41).choice) == []


def test_targets_are_spread_evenly():
    assert spread(np.arange(5), 20).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.arange(100), 4).tolist() == [12, 37, 62, 87]


def long_shard(users=40, events=30, items=12, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user": pa.array(range(users), pa.int32()),
            "items": pa.array(rng.integers(1, items + 1, (users, events)).tolist(), pa.list_(pa.int32())),
            "timestamps": pa.array(
                [[1, 2, 3, 4, *(YEAR + 60 * n for n in range(events - 4))]] * users, pa.list_(pa.int64())
            ),
            "ratings": pa.array([[3.0] * events] * users, pa.list_(pa.float32())),
        }
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SS4Rec(ModelConfig(dim=8, blocks=1, time_states=4, relation_states=4), 12).eval()


def test_all_targets_in_one_pass_are_ranked_as_one_by_one(model):
    """The naive way: a history for each target, cut where its pass begins, and a score for each item."""
    shard, the_task = long_shard(users=3), task(per_user=20)
    found = rank_shard(model, shard, the_task).to_pylist()
    assert len(found) == 60
    row = iter(found)
    for one in choose_targets(shard, the_task.choice):
        for path, rows in one.passes:
            assert len(path.items_T) <= 2 * the_task.choice.data.max_len
            for at, number in zip(path.at_R.tolist(), rows, strict=True):
                alone = replace(path, items_T=path.items_T[: at + 1], times_T=path.times_T[: at + 2],
                                ratings_T=path.ratings_T[: at + 1], at_R=np.array([at]))  # fmt: skip
                batch = pack([alone], [one.user[number]], True, None)
                hidden = encode_last(model, batch)
                seen = torch.from_numpy(one.seen[number])
                scores = model.scores(hidden, seen, torch.tensor([0, len(seen)])).matrix()[0].tolist()
                target = one.item[number]
                others = [i for i in range(1, 13) if i not in one.seen[number].tolist() or i == target]
                want = 1 + sum(scores[i] > scores[target] + 1e-6 for i in others)
                assert next(row)["model"] == want
    assert next(row, None) is None


def follow_scores(pairs, last, counts):
    """How often each item followed the last one; popularity (below 1) breaks ties."""
    return pairs[last].toarray() + counts / (counts.sum() + 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_count_ranks_equal_a_score_for_every_item(seed):
    rng = np.random.default_rng(seed)
    size, rows = 9, 6
    counts = np.r_[0, rng.integers(0, 4, size - 1)]
    dense = np.where(rng.random((size, size)) < 0.4, rng.integers(1, 4, (size, size)), 0)
    dense[:, 0] = 0
    pairs = csr_matrix(dense)
    targets, last = rng.integers(1, size, rows), rng.integers(1, size, rows)
    seen = [rng.integers(1, size, rng.integers(1, 6)) for _ in range(rows)]
    together = Seen.of(seen, targets, size)
    ranks = count_ranks(counts, targets, together), follower_ranks(pairs, counts, last, targets, together)
    for r in range(rows):
        left = [v for v in range(1, size) if v not in seen[r] and v != targets[r]]
        score = follow_scores(pairs, last[r : r + 1], counts)[0]
        for found, by in zip(ranks, (counts, score), strict=True):
            ahead = sum((by[v] > by[targets[r]]) + (by[v] == by[targets[r]]) / 2 for v in left)
            assert found[r] == 1 + ahead


def test_ranks_and_summary(model):
    shard, the_task = long_shard(), task(users=range(40), per_user=5)
    config = DriftConfig(permutations=199, bootstrap=20, min_users=1, alibi=())
    found = rank_shard(model, shard, the_task)
    assert found.num_rows == 200
    assert found["top10"].null_count == 160
    later = found.set_column(1, "window", pa.array([2] * 200, pa.int32()))
    lost = later.set_column(later.column_names.index("model"), "model", pa.array([np.inf] * 200))
    better = later.slice(50).set_column(later.column_names.index("model"), "model", pa.array([1.0] * 150))
    both = pa.concat_tables([found, lost])
    (first, second), compared = summarise(both, [(1, "a"), (2, "b")], config, 12, better)
    assert "the first window, a: only 0 users" in compared
    assert (first["retrained.HR@10"], first["retrained.users"]) == (None, 0)
    assert (second["retrained.gain"], second["retrained.users"]) == (1.0, 30)
    assert second["retrained.p"] == 1 / 200
    assert (first["severity"], second["severity"]) == ("none", "severe")
    assert (first["n_users"], first["targets"]) == (40, 200)
    assert second["drop"] == 1.0
    assert second["mix"] + second["within"] == pytest.approx(-first["all.HR@10"])
    assert second["hidden_p"] > 0.05  # the same users' states
    assert first["smallest_fall"] is None  # it is the reference itself
    assert 0 <= second["smallest_fall"] < 1
    assert second["regret.severity"] == "severe"  # popularity still finds some
    held_out = found.set_column(1, "window", pa.array([BEFORE_CUT] * 200, pa.int32()))
    (alone,), compared = summarise(pa.concat_tables([held_out, lost]), [(2, "b")], config, 12)
    assert "last events before the cut" in compared
    assert alone["drop"] == 1.0
    assert alone["reference"] == first["all.HR@10"]


def test_shuffled_histories_change_the_ranks_of_last_targets_alone(model):
    found = rank_shard(model, long_shard(), task(users=range(40), per_user=5))
    ranked = np.isfinite(found["shuffled"].to_numpy())
    assert ranked.sum() == 40
    assert (found["shuffled"].to_numpy()[ranked] != found["model"].to_numpy()[ranked]).any()


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
    found = choose_targets(SHARD, replace(task().choice, remap_V=own, vocabulary=3))
    assert [(one.user[0], one.item, one.seen[0].tolist()) for one in found] == [(0, [0], [3, 1, 2])]


def test_a_model_is_told_of_events_before_a_target_only():
    """Codes follow the run's meaning of the values; what is known of the target is in no pass."""
    stored = pa.array([[1, 2, 0, 2], [1, 1], [2, 2, 2]], pa.list_(pa.int32()))
    shard = SHARD.append_column("context.device", stored)
    told = (EventColumn(name="device", first=0, values=("web", "phone")),)
    meaning = (Feature(name="device", kind="categorical", values=("phone", "web")),)
    choice = task(told=told, context=meaning).choice
    (one,) = [one for one in choose_targets(shard, choice) if one.user[0] == 0]
    (path, _), *_ = one.passes
    assert path.items_T.tolist() == [1, 2]  # events with codes 1 and 0; 19 is left out
    assert path.codes_TC.tolist() == [[EVENT_CODES + 2], [0]]
    packed = pack([path], [0], True, np.array([[7]]))
    assert packed.profiles_TF.tolist() == [[7, EVENT_CODES + 2], [7, 0]]
    assert choose_targets(SHARD, choice)[0].passes[0][0].codes_TC.shape == (2, 0)


def test_the_reference_before_the_cut_is_what_training_did_not_see(tmp_path, prepared):
    """All users' last events, those of the users who are held out, or what is later than all training."""
    past = PreparedFolder.open(prepared)
    keys = np.sort(stable_keys(past.users["source_id"].to_pylist()))
    found = {}
    for name, changes in {
        "all": {},
        "some": {"protocol.held_out_users": 20},
        "later": {"protocol": {"kind": "global_time", "cut": 0.9}},
    }.items():
        config = override(preset("debug"), {"tracking.wandb": "disabled", "train.epochs": 1} | changes)
        train_alone(config, past, tmp_path / name, torch.device("cpu"))
        found[name] = held_out(tmp_path / name, past)
    assert found["all"].of(keys).tolist() == keys.tolist()
    plan = make_plan(Protocol(held_out_users=20), past)
    held_U = past.users["count"].to_numpy() > plan.fit_U
    mine = stable_keys(past.users["source_id"].to_pylist())[held_U]
    assert found["some"].of(keys).tolist() == np.sort(mine).tolist()
    record = RunFolder(tmp_path / "later").record()
    assert found["later"].of(keys).tolist() == keys.tolist()
    assert found["later"].from_s == record.trained_until_s + 1 > past.manifest.first_time_s
