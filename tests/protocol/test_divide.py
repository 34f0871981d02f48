"""What trains, what chooses and what tests, against the reference that goes event by event."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.batches.windows import ragged, target_windows, train_windows
from ss4rec.data.ids import drawn
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import DataError
from ss4rec.protocol.divide import Events, Rules, divide
from ss4rec.protocol.plan import find_rules, make_plan, plan_of, sizes_of
from ss4rec.protocol.settings import Protocol
from tests.protocol import naive

checked = settings(derandomize=True, deadline=None, max_examples=40)
events = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=3, max_size=14)
histories = st.lists(events, min_size=4, max_size=9)
protocols = st.builds(
    dict,
    cut=st.sampled_from([0.4, 0.6, 0.8]),
    targets=st.sampled_from(["last", "successive", "random", "first"]),
    validation=st.sampled_from(["time", "user", "last_train_item"]),
    validation_quantile=st.sampled_from([0.5, 0.8]),
    validation_users=st.just(2),
    validation_targets=st.sampled_from(["last", "successive", "random", "first"]),
    repeats=st.sampled_from(["keep", "drop"]),
    k_core=st.sampled_from([0, 2, 3]),
    core=st.sampled_from(["before", "after"]),
    ties=st.sampled_from(["prepared", "hash"]),
    refit=st.booleans(),
    min_history=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 3),
).map(lambda fields: Protocol(name="drawn", kind="global_time", **fields))


def events_of(users):
    """Sorted by time, as a prepared folder is."""
    users = [sorted(rows, key=lambda row: row[1]) for rows in users]
    flat = [row for rows in users for row in rows]
    return Events(
        np.arange(len(users), dtype=np.int32),
        np.concatenate([[0], np.cumsum([len(rows) for rows in users])]),
        np.array([item for item, _ in flat], np.int32),
        np.array([1000 * time for _, time in flat], np.int64),
        np.arange(len(flat), dtype=np.float32),
    )


def as_histories(all_events):
    """By user, a list of distinct (item, time) objects."""
    bounds = all_events.offsets_U1
    return {
        user: [
            (int(item), int(time))
            for item, time in zip(all_events.items_E[a:b], all_events.times_E[a:b], strict=True)
        ]
        for user, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
    }


MANIFEST = SimpleNamespace(users=9, items=9, name="drawn")


def make(protocol, all_events):
    return plan_of(find_rules(protocol, all_events, MANIFEST), all_events, 9)


def plan_or_none(protocol, all_events):
    try:
        return make(protocol, all_events)
    except DataError:
        return None


@checked
@given(histories, protocols)
def test_global_time_is_what_the_loop_finds(users, protocol):
    all_events = events_of(users)
    plan = plan_or_none(protocol, all_events)
    if plan is None:  # a part is empty; refused, which the next tests look at
        return
    fit, valid, test, known = naive.global_time(as_histories(all_events), protocol, plan.cut_s)
    division = plan.divide(all_events.table())
    source = np.concatenate([[0], plan.items_I])
    assert set(plan.items_I.tolist()) == known
    items_E, offsets = ragged(division.histories["items"])
    times_E, _ = ragged(division.histories["timestamps"])
    for user, (a, b) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        mine = list(zip(source[items_E[a:b]].tolist(), times_E[a:b].tolist(), strict=True))
        assert mine[: division.fit_U[user]] == fit[user]
        for targets, expected in ((division.valid, valid), (division.test, test)):
            chosen = targets.row_N == user
            rows = zip(targets.ends_N[chosen], targets.items_N[chosen], targets.times_N[chosen], strict=True)
            found = [(mine[:end], int(source[item]) or None, int(time)) for end, item, time in rows]
            assert found == expected[user]
    between = naive.gaps(fit)
    assert plan.median_gap_s == (float(np.median(between)) if between else 0.0)
    assert plan.facts["test_cold_targets"] == sum(row[1] is None for rows in test.values() for row in rows)


@checked
@given(histories, protocols, st.integers(1, 6), st.booleans())
def test_no_test_target_and_nothing_later_ever_trains(users, protocol, max_len, target_time):
    all_events = events_of(users)
    plan = plan_or_none(protocol, all_events)
    if plan is None:
        return
    division = plan.divide(all_events.table())
    lengths_U = np.diff(ragged(division.histories["items"])[1])
    # Ratings are numbers of events here: a rating names the event that reaches training.
    windows = train_windows(
        division.histories,
        max_len=max_len,
        overlap=0,
        target_time=target_time,
        holdout=lengths_U - division.fit_U,
    )
    inputs = ragged(windows["ratings"])[0].astype(int)
    assert (all_events.times_E[inputs] <= plan.cut_s).all()
    targets_T = ragged(windows["targets"])[0]
    assert (targets_T > 0).sum() == np.maximum(division.fit_U - 1, 0).sum()
    if not protocol.refit and plan.rules.valid_cut_s is not None:
        assert (all_events.times_E[inputs] <= plan.rules.valid_cut_s).all()
    if not protocol.refit and plan.rules.withheld_N is not None:
        assert not plan.rules.withheld_N[np.unique(windows["user"].to_numpy())].any()
    # A change of the future changes nothing of training.
    later_E = all_events.times_E > plan.cut_s
    if protocol.core == "after" or not protocol.k_core:
        items_E = np.where(later_E, 1 + all_events.items_E % 9, all_events.items_E).astype(np.int32)
        moved = Events(*(getattr(all_events, f) for f in ("users_U", "offsets_U1")), items_E,
                       *(getattr(all_events, f) for f in ("times_E", "ratings_E")))  # fmt: skip
        fixed = protocol.model_copy(update={"cut": int(plan.cut_s)})
        other = divide(moved.table(), find_rules(fixed, moved, MANIFEST))
        again = train_windows(
            other.histories,
            max_len=max_len,
            overlap=0,
            target_time=target_time,
            holdout=np.diff(ragged(other.histories["items"])[1]) - other.fit_U,
        )
        assert again.equals(windows)


@checked
@given(
    histories,
    st.sampled_from(["prepared", "hash"]),
    st.sampled_from(["keep", "drop"]),
    st.sampled_from([0, 2]),
)
def test_leave_one_out_holds_out_the_last_two(users, ties, repeats, core):
    all_events = events_of(users)
    protocol = Protocol(ties=ties, repeats=repeats, k_core=core)
    plan = plan_or_none(protocol, all_events)
    if plan is None:
        return
    kept = naive.arranged(as_histories(all_events), protocol)
    kept = naive.k_core(kept, core) if core else kept
    division = plan.divide(all_events.table())
    source = np.arange(10) if plan.items_I is None else np.concatenate([[0], plan.items_I])
    for user, expected in kept.items():
        enough = len(expected) >= 3
        assert division.fit_U[user] == (len(expected) - 2 if enough else 0)
        for targets, back in ((division.valid, 2), (division.test, 1)):
            chosen = targets.row_N == user
            assert source[targets.items_N[chosen]].tolist() == ([expected[-back][0]] if enough else [])
            assert targets.ends_N[chosen].tolist() == ([len(expected) - back] if enough else [])


@checked
@given(histories, st.lists(st.booleans(), min_size=9, max_size=9), st.sampled_from(["keep", "drop"]))
def test_all_events_of_users_who_are_not_held_out_train(users, held, repeats):
    all_events = events_of(users)
    protocol = Protocol(held_out_users=4, repeats=repeats)
    rules = Rules(protocol, withheld_N=np.array(held[: len(users)]))
    division = divide(all_events.table(), rules)
    for user, expected in naive.arranged(as_histories(all_events), protocol).items():
        enough = held[user] and len(expected) >= 3
        trains = len(expected) if not held[user] else max(0, len(expected) - 2)
        assert division.fit_U[user] == trains
        for targets, back in ((division.valid, 2), (division.test, 1)):
            chosen = targets.row_N == user
            assert targets.items_N[chosen].tolist() == ([expected[-back][0]] if enough else [])


def test_a_folder_holds_out_as_many_users_as_asked(prepared):
    folder = PreparedFolder.open(prepared)
    plan = make_plan(Protocol(held_out_users=20), folder)
    counts_U = folder.users["count"].to_numpy()
    held_U = drawn(folder.users["source_id"].to_pylist(), 20)
    assert (plan.valid.users, plan.test.users, held_U.sum()) == (20, 20, 20)
    assert plan.fit_U.tolist() == np.where(held_U, counts_U - 2, counts_U).tolist()
    everybody = make_plan(Protocol(held_out_users=10_000), folder)
    assert everybody.fit_U.tolist() == make_plan(Protocol(), folder).fit_U.tolist()


@checked
@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=40, unique=True),
    st.integers(1, 20),
    st.booleans(),
)
def test_whoever_is_held_out_later_was_before(ids, count, words):
    ids = [str(one) for one in ids] if words else ids
    today = ids[: max(1, len(ids) // 2)]
    before, later = drawn(today, count), drawn(ids, count)
    assert later.sum() == min(count, len(ids))
    assert before[later[: len(today)]].all()


@checked
@given(histories, st.integers(1, 9), st.integers(1, 3), st.integers(1, 30))
def test_batches_are_as_large_as_the_plan_says(users, max_len, world, most):
    all_events = events_of(users)
    protocol = Protocol(
        name="x", kind="global_time", cut=0.5, targets="successive", validation="last_train_item"
    )
    plan = plan_or_none(protocol, all_events)
    if plan is None:
        return
    division = plan.divide(all_events.table())
    rows = target_windows(
        division.histories, division.test, max_len=max_len, target_time=True, share_passes=True
    )
    for rank in range(world):
        mine = rows.filter(np.asarray(rows["user"]) % world == rank)
        targets_W = np.diff(ragged(mine["targets"])[1])
        assert plan.batch_rows("test", max_len, most, rank, world) == sizes_of(targets_W, most)
        assert sum(sizes_of(targets_W, most)) == mine.num_rows


def test_what_leaves_nothing_is_refused():
    all_events = events_of([[(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 2), (3, 3)], [(2, 1), (1, 2), (2, 3)]])
    for fields, message in (
        ({"cut": 0.999}, "leaves no event on one side"),
        ({"cut": 1}, "leaves no event on one side"),
        ({"cut": 0.6, "k_core": 9}, "smaller k_core"),
        ({"cut": 0.6, "validation": "user", "validation_users": 9}, "set it lower"),
        ({"cut": 0.6, "validation": "last_train_item", "min_history": 9}, "nothing is left for"),
    ):
        protocol = Protocol(name="x", kind="global_time", **fields)
        with pytest.raises(DataError, match=message):
            make(protocol, all_events)
