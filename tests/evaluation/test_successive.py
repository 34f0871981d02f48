"""Many targets from one pass over the history give the ranks of encoding each prefix anew."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.batch import collate_eval
from ss4rec.data.batches.windows import Ranked, target_windows, window_starts
from ss4rec.evaluation.evaluator import rank_users
from ss4rec.evaluation.own_items import OwnMostFrequent
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.evaluation.states import prefixes
from ss4rec.evaluation.successive import history_batches
from ss4rec.model.ss4rec import SS4Rec

ITEMS, GAP_S = 30, 30.0


@pytest.fixture(scope="module")
def shard():
    """Four users, with ties in time and repeats."""
    rng = np.random.default_rng(5)
    lengths = [9, 25, 3, 17]
    rows = {
        "user": pa.array([2, 5, 6, 9], pa.int32()),
        "items": pa.array([rng.integers(1, ITEMS + 1, n).astype(np.int32) for n in lengths]),
        "timestamps": pa.array([10**6 + np.cumsum(rng.choice([0, 30, 9000], n)) for n in lengths]),
        "ratings": pa.array([rng.integers(1, 6, n).astype(np.float32) for n in lengths]),
    }
    return pa.table(rows)


def all_targets(shard, cold=()):
    """Every event but each user's first; those whose number is in `cold` are of items that nobody knows."""
    rows = [
        (row, end, user["items"][end], user["timestamps"][end])
        for row, user in enumerate(shard.to_pylist())
        for end in range(1, len(user["items"]))
    ]
    row_N, end_N, item_N, time_N = (np.array(column) for column in zip(*rows, strict=True))
    item_N = np.where(np.isin(np.arange(len(rows)), cold), 0, item_N).astype(np.int32)
    return Ranked(row_N, end_N, item_N, time_N)


def model_of(inputs=("rating", "gap", "clock", "date")):
    torch.manual_seed(1)
    config = ModelConfig(
        dim=8, time_states=4, relation_states=4, gap_map="log", init_std=1.0, repeats="learned", inputs=inputs
    )
    model = SS4Rec(config, ITEMS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()


def naive_ranks(model, shard, ranked, max_len, target_time, known):
    """Rank each target by a pass of its own over its prefix, from the begin of its window; ties count half."""
    found = []
    for row, end, item in zip(ranked.row_N, ranked.ends_N, ranked.items_N, strict=True):
        user = shard.slice(int(row), 1).to_pylist()[0]
        start = int(window_starts(end, max_len))
        items, times = user["items"][start:end], np.array(user["timestamps"][: end + 1])
        gaps = np.diff(times).astype(np.float32) if target_time else np.diff(times, prepend=times[0])[:-1]
        hours = (times[1:] if target_time else times[:-1]) // 3600
        gaps, hours = gaps[start:].copy(), hours[start:].copy()
        if target_time and not known:
            gaps[-1], hours[-1] = GAP_S, (times[end - 1] + round(GAP_S)) // 3600
        from ss4rec.model.inputs import Context
        from ss4rec.model.segments import Segments

        context = Context(
            torch.tensor(hours), torch.tensor(user["ratings"][start:end]), torch.zeros(len(items), 0).long()
        )
        hidden = model.encode(
            torch.tensor(items), torch.tensor(gaps).float(), Segments.from_lengths([len(items)]), context
        )
        seen = user["items"][:end]
        scores = model.scores(hidden[-1:], torch.tensor(seen), torch.tensor([0, len(seen)])).matrix()[0]
        scores = scores.tolist()
        ranks = []
        for left_out in ([], seen):
            others = [s for j, s in enumerate(scores) if j and j != item and j not in left_out]
            ahead = sum(s > scores[item] for s in others) + sum(s == scores[item] for s in others) / 2
            ranks.append(1 + ahead if item else np.inf)
        found.append(ranks)
    return np.array(found)


def rank_targets(scorer, shard, ranked, data, batch_targets=2048):
    rows = target_windows(
        shard, ranked, max_len=data.max_len, target_time=data.target_time, share_passes=True
    )
    return rank_users(scorer, history_batches(rows, batch_targets))


@pytest.mark.parametrize("target_time", [True, False])
@pytest.mark.parametrize("max_len", [1, 4, 12, 100])
def test_ranks_are_those_of_each_prefix_alone(shard, max_len, target_time):
    model, ranked = model_of(), all_targets(shard, cold=(3, 40))
    scorer = ModelScorer(model, GAP_S, target_time)
    data = DataConfig(max_len=max_len, overlap=0, target_time=target_time)
    with torch.inference_mode():
        table = rank_targets(scorer, shard, ranked, data, batch_targets=7)
        for known in (True, False):
            expected = naive_ranks(model, shard, ranked, max_len, target_time, known)
            for column, seen in enumerate(("kept", "excluded")):
                found = table[f"rank_{seen}_{'known' if known else 'unknown'}"].to_numpy()
                assert found.tolist() == expected[:, column].tolist()
    assert table["history"].to_pylist() == ranked.ends_N.tolist()
    assert table["target_time"].to_pylist() == ranked.times_N.tolist()


def test_a_history_within_a_window_is_passed_over_once(shard):
    ranked = all_targets(shard)
    rows = target_windows(shard, ranked, max_len=12, target_time=True, share_passes=True)
    assert [len(row["items"]) for row in rows.to_pylist() if row["user"] == 2] == [8]
    lengths = [row["places"] for row in rows.to_pylist() if row["user"] == 5]
    assert lengths[0] == list(range(12))
    # Later windows begin every quarter: three targets each, from 10 to 12 events.
    assert lengths[1:] == [[9, 10, 11]] * 4
    alone = target_windows(shard, ranked, max_len=12, target_time=True)
    assert alone.num_rows == len(ranked.row_N)


@pytest.mark.parametrize("max_len", [1, 2, 5, 8, 200])
def test_a_window_shows_three_quarters_at_least(max_len):
    ends = np.arange(1, 1000)
    context = ends - window_starts(ends, max_len)
    assert (context <= max_len).all()
    assert (context[ends <= max_len] == ends[ends <= max_len]).all()
    assert (context[ends > max_len] >= 0.75 * max_len).all()


def test_later_events_change_no_rank(shard):
    ranked = all_targets(shard.slice(1, 1))
    scorer = ModelScorer(model_of(), GAP_S, True)
    data = DataConfig(max_len=8, overlap=0)
    whole = rank_targets(scorer, shard.slice(1, 1), ranked, data)
    part = Ranked(*(column[:11] for column in (ranked.row_N, ranked.ends_N, ranked.items_N, ranked.times_N)))
    first = rank_targets(scorer, shard.slice(1, 1), part, data)
    assert first.drop(["weight"]).equals(whole.slice(0, 11).drop(["weight"]))


def test_prefixes_are_cut_at_any_size(shard):
    batch = collate_eval(
        target_windows(shard, all_targets(shard), max_len=12, target_time=True, share_passes=True)
    )
    whole = list(prefixes(batch, 10**6))
    assert len(whole) == 1
    parts = list(prefixes(batch, 1))
    assert len(parts) == batch.num_sequences
    assert torch.equal(torch.cat([part.items_T for part in parts]), whole[0].items_T)
    assert torch.equal(whole[0].items_T[whole[0].last_S], batch.items_T[batch.last_S])


def test_what_was_seen_moves_with_the_target(shard):
    batch = collate_eval(
        target_windows(shard, all_targets(shard), max_len=4, target_time=True, share_passes=True)
    )
    users = {row["user"]: row["items"] for row in shard.to_pylist()}
    bounds = batch.seen_offsets_S1.tolist()
    for n, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        history = users[int(batch.users_S[n])][: int(batch.histories_S[n])]
        assert batch.seen_X[a:b].tolist() == history
    scores = OwnMostFrequent(np.zeros(ITEMS + 1, int)).scores(batch, target_time_known=True).matrix()
    assert (scores[:, 1:] > 0).sum(1).tolist() == [
        len(set(batch.seen_X[a:b].tolist())) for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    ]
