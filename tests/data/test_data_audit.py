"""The audit: counts against the same counted by hand, and a planted fault for each light."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ss4rec.api import audit, prepare
from ss4rec.config import RunConfig
from ss4rec.data.audit import reach as reaching
from ss4rec.data.audit import scan as scanning
from ss4rec.data.audit.scan import Scan, _usual_by_chance
from ss4rec.data.audit.volume import volume
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare as prepare_file
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.protocol.export import export_division
from ss4rec.protocol.named import protocol_or_cut
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol
from tests.browser import needs_browser, require_readable, require_self_contained

DAY_S, START_S = 86_400, 1_600_041_600
CUT_S = START_S + 79 * DAY_S - 1
"""Midnight of 2020-09-14; and the end of 2020-12-01."""
USERS, EVENTS, ITEMS, DAYS = 300, 20, 120, 100


def clean(seed: int = 0) -> pd.DataFrame:
    """People who each like 20 different items, spread evenly over 100 days."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(item), int(START_S + second))
        for user in range(USERS)
        for item, second in zip(
            rng.choice(ITEMS, EVENTS, replace=False), rng.integers(0, DAYS * DAY_S, EVENTS), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["user", "item", "time"])


@pytest.fixture
def look(tmp_path):
    """Prepare a table and audit it."""
    count = iter(range(99))

    def make(table, split=None, **options):
        folder = tmp_path / f"data{next(count)}"
        data = prepare(
            table.sort_values(["user", "time"], kind="stable"), folder, k_core=0, rows_per_shard=64, **options
        )
        return audit(data, split, users=200)

    return make


def tone(found, topic: str) -> str:
    (light,) = [light for light in found.lights if light.topic == topic]
    assert light.rule
    assert (light.tone == "good") == (not light.advice)
    return light.tone


# Counts against a naive reference.


@pytest.fixture
def messy() -> pd.DataFrame:
    """Few items, ties, repeats, duplicates, and items and users that begin at different days."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(80):
        day = int(rng.integers(0, 20))
        for _ in range(int(rng.integers(3, 30))):
            day = min(day + int(rng.choice([0, 0, 1])), 24)
            item = int(rng.integers(0, 3 + 2 * day))
            rows.append((user, item, START_S + day * DAY_S + int(rng.integers(0, 4)) * 20_000))
    table = pd.DataFrame(rows, columns=["user", "item", "time"])
    return pd.concat([table, table.sample(40, random_state=0)]).sort_values(["user", "time"], kind="stable")


def histories(table: pd.DataFrame) -> dict[int, list[tuple[int, int]]]:
    """Return (item, time) of each user in order."""
    return {u: list(zip(own["item"], own["time"], strict=True)) for u, own in table.groupby("user")}


def test_repeats_gaps_and_ties_are_those_counted_by_hand(messy, look):
    facts = look(messy).facts
    repeated = at_once = duplicates = gaps = zero = rises = falls = 0
    for events in histories(messy).values():
        had, seen = set(), set()
        for place, (item, time) in enumerate(events):
            repeated += item in had
            duplicates += (item, time) in seen
            had.add(item)
            seen.add((item, time))
            if place:
                before = events[place - 1]
                gaps, zero = gaps + 1, zero + (time == before[1])
                at_once += item == before[0]
                rises += time == before[1] and item > before[0]
                falls += time == before[1] and item < before[0]
    events = len(messy)
    assert facts.repeats.share == pytest.approx(repeated / events)
    assert facts.repeats.at_once == pytest.approx(at_once / events)
    assert facts.repeats.duplicates == pytest.approx(duplicates / events)
    assert (facts.times.gaps, facts.times.zero_share) == (gaps, pytest.approx(zero / gaps))
    assert sum(count for _, count in facts.times.histogram) == gaps
    assert (facts.ties.pairs, facts.ties.ascending) == (zero, pytest.approx(rises / (rises + falls)))


def test_usual_order_is_that_counted_by_hand(look):
    rng = np.random.default_rng(5)
    rows = [(u, int(i), START_S + u) for u in range(200) for i in rng.permutation(6)]
    ties = look(pd.DataFrame(rows, columns=["user", "item", "time"]), ties="file").facts.ties
    counts: dict[tuple[int, int], Counter] = defaultdict(Counter)
    for first, second in zip(rows, rows[1:], strict=False):
        if first[0] == second[0]:
            counts[min(first[1], second[1]), max(first[1], second[1])][first[1] < second[1]] += 1
    frequent = [c for c in counts.values() if sum(c.values()) >= scanning.FREQUENT]
    total = sum(sum(c.values()) for c in frequent)
    assert ties.frequent == total
    assert ties.usual_order == pytest.approx(sum(max(c.values()) for c in frequent) / total)
    assert ties.given_away < 0.1


def test_chance_is_that_of_a_coin():
    for n in (1, 2, 7, 10, 31):
        expected = sum(math.comb(n, k) * max(k, n - k) for k in range(n + 1)) / 2**n
        assert _usual_by_chance(np.array([n]))[0] == pytest.approx(expected)


def test_what_is_new_each_day_is_that_counted_by_hand(messy, look):
    day = look(messy).facts.next_day
    ordered = messy.sort_values("time", kind="stable")
    days = ordered["time"] // DAY_S
    first_item, first_user = (
        {k: days[ordered[c] == k].min() for k in set(ordered[c])} for c in ("item", "user")
    )
    per_day = days.value_counts().sort_index()
    later = {d for d, total in per_day.cumsum().items() if total > len(messy) / 2 and d != per_day.index[0]}
    chosen = [(u, i, d) for u, i, d in zip(ordered["user"], ordered["item"], days, strict=True) if d in later]
    known = [(u, i, d) for u, i, d in chosen if first_user[u] < d]
    assert day.events == len(chosen)
    assert day.cold_items == pytest.approx(np.mean([first_item[i] == d for _, i, d in chosen]))
    assert day.cold_items_of_known == pytest.approx(np.mean([first_item[i] == d for _, i, d in known]))
    assert day.new_users == pytest.approx(np.mean([first_user[u] == d for u, _, d in chosen]))
    assert [count for _, count, _ in day.by_day] == per_day.tolist()


def test_leaks_of_leave_one_out_are_those_counted_by_hand(messy, look):
    division = look(messy).facts.division
    events = histories(messy)
    training = [event for own in events.values() for event in own[:-2]]
    trained = {item for item, _ in training}
    everything = [event for own in events.values() for event in own]
    first = {i: min(t for item, t in everything if item == i) for i in {item for item, _ in everything}}
    targets = [(own[:-1], *own[-1]) for own in events.values()]
    assert (division.training_events, division.targets) == (len(training), len(targets))
    assert division.cold_targets == pytest.approx(np.mean([item not in trained for _, item, _ in targets]))
    later = [np.mean([t // DAY_S > time // DAY_S for _, t in training]) for _, _, time in targets]
    assert division.future_training == pytest.approx(np.mean(later))
    later = [item in trained and first[item] >= time for _, item, time in targets]
    assert division.future_items == pytest.approx(np.mean(later))
    assert division.in_history == pytest.approx(np.mean([item in dict(h) for h, item, _ in targets]))
    assert division.twins == pytest.approx(np.mean([(item, time) in h for h, item, time in targets]))
    assert 0 < division.twins < division.in_history < 1
    assert division.future_items > 0
    assert not division.core_looked_ahead


def test_cold_targets_of_a_cut_are_those_that_the_protocol_writes(messy, look, tmp_path):
    found = look(messy, "2020-10-01").facts.division
    export_division(tmp_path / "data0", tmp_path / "tables", protocol_or_cut("2020-10-01"))
    cold = pq.read_table(tmp_path / "tables" / "test.parquet")["cold"].to_numpy()
    assert (found.targets, found.cold_targets) == (len(cold), pytest.approx(cold.mean()))
    assert 0 < found.cold_targets < 1
    assert found.future_training == found.future_items == 0


def test_parts_of_the_ties_are_enough(messy, tmp_path, monkeypatch):
    """With few pairs kept, those of evenly spread shards are looked at."""
    data = prepare(messy, tmp_path / "data", k_core=0, rows_per_shard=8)
    whole = Scan.of(data).ties().pairs
    monkeypatch.setattr(scanning, "MAX_TIED", whole // 4)
    assert 0.1 * whole < Scan.of(data).ties().pairs < 0.5 * whole


def test_lengths_and_popularity(messy, look):
    facts = look(messy).facts
    lengths = messy.groupby("user").size()
    assert facts.lengths.median == np.median(lengths)
    assert facts.lengths.longest_share == pytest.approx(lengths.max() / lengths.sum())
    assert sum(users for _, users in facts.lengths.histogram) == len(lengths)
    for least, users in facts.lengths.histogram:
        assert users == ((lengths >= least) & (lengths < 2 * least)).sum()
    counts = np.sort(messy.groupby("item").size())[::-1]
    assert facts.head.top_10 == pytest.approx(counts[: math.ceil(len(counts) / 10)].sum() / counts.sum())
    pairs = np.abs(counts[:, None] - counts[None, :]).sum()
    assert facts.head.gini == pytest.approx(pairs / (2 * len(counts) * counts.sum()))


@pytest.mark.parametrize("split", ["leave-one-out", "time-to-split"])
def test_simple_scorers_reach_what_an_evaluation_says(prepared, split):
    """With all users asked, figures are those of the baselines in every table."""
    protocol = protocol_or_cut(split)
    folder = PreparedFolder.open(prepared)
    found = audit(folder, protocol, users=10_000).facts.reach
    plan = make_plan(protocol, folder)
    source = LocalSource.of(RunConfig(protocol=protocol), folder)
    scorers = baselines(folder, plan)
    assert found.users == plan.test.users
    for name in {name for name, _ in found.hr10} & set(scorers):
        ranks = rank_users(scorers[name], source.eval_batches("test", 64))
        metrics = summarise(ranks, (10,), protocol=protocol).setting(protocol.seen, "unknown").metrics
        assert dict(found.hr10)[name] == pytest.approx(metrics["HR@10"]), name
        assert dict(found.ndcg10)[name] == pytest.approx(metrics["NDCG@10"]), name


def test_of_many_events_evenly_spread_shards_are_counted(tmp_path, monkeypatch):
    data = prepare(clean(), tmp_path / "data", k_core=0, rows_per_shard=50)
    monkeypatch.setattr(reaching, "MAX_EVENTS", USERS * EVENTS // 2)
    found = audit(data, users=10_000).facts.reach
    assert found.users == USERS / 2
    assert found.events == USERS / 2 * (EVENTS - 2)


# A planted fault for each light.

PLANTED = (
    "longest user", "resolution", "equal times", "order of equal times", "duplicates", "repeats",
    "identical histories", "clockwork", "holes", "jumps", "thin ends", "cold items of the split", "target in history",
)  # fmt: skip


def test_clean_data_are_green(look):
    found = look(clean())
    wrong = {topic: tone(found, topic) for topic in (*PLANTED, "k-core", "lengths", "density")}
    assert set(wrong.values()) == {"good"}, wrong
    assert (
        len(found.lights)
        == found.count("good") + found.count("warn") + found.count("bad")
        == len({light.topic for light in found.lights})
    )
    assert found.headline.startswith("data0: ")


def with_robots(table):
    copy = table[table["user"] == 7]
    return pd.concat([table, *(copy.assign(user=90000 + n, time=copy["time"] + 60 * n) for n in range(9))])


def with_clockwork(table):
    """Two items at a time, every hour and a second."""
    steps = [
        (2000 + u, i + 30 * twice, START_S + 5 + u + 3_601 * i)
        for u in range(5)
        for i in range(25)
        for twice in range(2)
    ]
    return pd.concat([table, pd.DataFrame(steps, columns=table.columns)])


def with_hole(table):
    day = (table["time"] - START_S) // DAY_S
    return table[~day.between(40, 43)]


def with_jump(table):
    late = table[(table["time"] - START_S) // DAY_S >= 60]
    more = [late.assign(user=late["user"] + 1000 * n, item=(late["item"] + n) % ITEMS) for n in range(1, 5)]
    return pd.concat([table, *more])


def with_thin_end(table):
    stray = pd.DataFrame([(3, 1, START_S + 300 * DAY_S)], columns=table.columns)
    return pd.concat([table, stray])


def with_duplicates(table):
    return pd.concat([table, table.sample(200, random_state=1)])


def with_copies_of_targets(table):
    return pd.concat([table, table.sort_values("time").groupby("user").tail(1)])


def in_whole_days(table):
    return table.assign(time=table["time"] // DAY_S * DAY_S)


def with_baskets(table):
    """Ten items at a time, always in the same order."""
    place = table.sort_values(["user", "time"]).groupby("user").cumcount() // 10
    baskets = table.sort_values(["user", "time"]).assign(
        time=START_S + place * DAY_S * 30 + table["user"] * 300
    )
    return baskets.sort_values(["user", "time", "item"])


def with_one_who_has_it_all(table):
    rows = [(5000, i % ITEMS, START_S + 7_001 * i) for i in range(900)]
    return pd.concat([table, pd.DataFrame(rows, columns=table.columns)])


def with_new_items(table):
    """Each item lives ten days."""
    return table.assign(item=table["item"] + 1000 * ((table["time"] - START_S) // (10 * DAY_S)))


def with_habits(table):
    return table.assign(item=table["item"] % 15)


@pytest.mark.parametrize(
    ("plant", "topics"),
    [
        (with_robots, ["identical histories"]),
        (with_clockwork, ["clockwork"]),
        (with_hole, ["holes"]),
        (with_jump, ["jumps"]),
        (with_thin_end, ["thin ends"]),
        (with_duplicates, ["duplicates", "target in history"]),
        (with_copies_of_targets, ["target in history"]),
        (in_whole_days, ["resolution"]),
        (with_baskets, ["equal times", "order of equal times"]),
        (with_one_who_has_it_all, ["longest user"]),
        (with_new_items, ["next day", "cold items of the split"]),
        (with_habits, ["repeats"]),
    ],
)
def test_a_planted_fault_turns_its_light(look, plant, topics):
    found = look(plant(clean()), "2020-12-01" if "next day" in topics else None)
    for topic in topics:
        assert tone(found, topic) != "good", topic


def test_planted_faults_are_named(look):
    facts = look(with_robots(with_hole(with_jump(clean())))).facts
    assert facts.copies.groups == 1
    assert facts.copies.users == facts.copies.largest == 10
    assert set(facts.copies.example) <= {"7", *(str(90000 + n) for n in range(9))}
    assert [(hole.first, hole.last) for hole in facts.volume.holes] == [("2020-10-24", "2020-10-27")]
    (jump,) = facts.volume.jumps
    assert abs(pd.Timestamp(jump.day) - pd.Timestamp("2020-11-13")) <= pd.Timedelta(days=2)
    assert 3 < jump.factor < 7


def test_the_same_items_in_another_order_are_no_copy(look):
    own = clean()[lambda table: table["user"] == 7].sort_values("time")
    turned = own.assign(user=8000, item=own["item"].to_numpy()[::-1])
    assert look(pd.concat([clean(), turned])).facts.copies.users == 0
    assert look(pd.concat([clean(), own.assign(user=8000)])).facts.copies.users == 2


def test_the_order_of_a_hash_gives_nothing_away(look):
    found = look(with_baskets(clean()), ties="hash")
    assert tone(found, "order of equal times") == "good"
    assert found.facts.reach.ties_hashed is None
    told = look(with_baskets(clean()))
    assert told.facts.ties.given_away > 0.9
    assert told.facts.reach.ties_hashed < 0.8 * dict(told.facts.reach.ndcg10)["Markov chain"]
    assert ("protocol.ties", "hash") in [(choice.field, choice.value) for choice in told.choices]


def test_a_cut_in_time_looks_at_no_future(look):
    """Each user lives for some days, so most of the training is later than most targets."""
    table = clean()
    own = START_S + (table["user"] * DAYS * DAY_S) // USERS
    table = table.assign(time=own + (table["time"] - START_S) // 20)
    alone = look(table)
    assert tone(alone, "future in training") == "bad"
    assert ("--protocol", "time-to-split") in [(choice.field, choice.value) for choice in alone.choices]
    cut = look(
        table,
        Protocol(
            name="cut", kind="global_time", cut=CUT_S, validation="last_train_item", target_time="unknown"
        ),
    )
    assert tone(cut, "future in training") == "good"
    after = set(table["user"][table["time"] > CUT_S])
    trains = table[table["time"] <= CUT_S].groupby("user").size()
    fresh = [user for user in after if trains.get(user, 0) < 3]
    assert cut.facts.division.cold_users == pytest.approx(len(fresh) / len(after), abs=0.02)
    assert tone(cut, "cold users of the split") == "bad"


def test_columns_about_items_are_taken_into_account(tmp_path):
    (tmp_path / "items.csv").write_text(
        "item,brand\n" + "".join(f"{item},b{item % 3}\n" for item in range(2000))
    )
    with_new_items(clean()).to_csv(tmp_path / "events.csv", index=False)
    found = []
    for features in (None, tmp_path / "items.csv"):
        prepare_file(
            tmp_path / "events.csv", tmp_path / "data", k_core=0, item_features=features, overwrite=True
        )
        found.append(audit(tmp_path / "data", "2020-12-01", users=50))
    options = [[choice.field for choice in one.choices] for one in found]
    assert ("--item-features" in options[0], "model.item_features" in options[0]) == (True, False)
    assert ("--item-features" in options[1], "model.item_features" in options[1]) == (False, True)
    assert found[0].facts.division.cold_targets == found[1].facts.division.cold_targets > 0.1


def test_a_core_counted_ahead_is_said(tmp_path):
    data = prepare(clean(), tmp_path / "data", k_core=5)
    assert tone(audit(data, users=50), "k-core") == "warn"


def test_a_chain_that_knows_it_all_is_said(look):
    rows = [(u, (u + n) % 50, START_S + 1000 * n + u) for u in range(200) for n in range(20)]
    found = look(pd.DataFrame(rows, columns=["user", "item", "time"]))
    assert tone(found, "what is easy") == "bad"
    assert tone(found, "does order matter") == "good"
    assert tone(look(clean()), "does order matter") != "good"


def test_holes_need_enough_events_around_them():
    events = np.full(40, 100)
    events[20:25] = 3
    assert [hole.first for hole in volume(events, 0).holes] == ["1970-01-21"]
    assert not volume(events, 0).jumps
    assert not volume(np.where(events == 3, 11, events), 0).holes
    assert volume(events // 20, 0).days == 28
    assert not volume(np.array([5]), 0).holes


def test_a_shop_that_is_closed_on_saturdays_has_no_holes():
    events = np.full(70, 100)
    events[5::7] = 0
    assert not volume(events, 0).holes
    events[30:32] = 0
    assert [(hole.first, hole.last) for hole in volume(events, 0).holes] == [("1970-01-31", "1970-02-01")]


# What people see.


def test_an_unknown_protocol_is_refused(look):
    with pytest.raises(ConfigError, match="did you mean"):
        look(clean(), "time-to-splitt")


@needs_browser
def test_the_page_can_be_read(look, tmp_path):
    found = look(with_hole(with_robots(clean())), name="<b>shop</b>")
    page = found.to_html()
    require_self_contained(page)
    assert "<b>shop</b>" not in page
    assert require_readable(page, tmp_path) == [
        "Volume",
        "Lengths",
        "Gaps",
        "Popularity",
        "Next day",
        "What is easy",
    ]
    assert all(light.rule in page.replace("&#39;", "'") for light in found.lights)


def test_a_page_of_next_to_nothing(tmp_path):
    rows = [(u, i, START_S) for u in range(3) for i in range(3)]
    data = prepare(pd.DataFrame(rows, columns=["user", "item", "time"]), tmp_path / "data", k_core=0)
    found = audit(data)
    assert "Volume" in found.to_html()
    assert replace(found).to_dict()["facts"]["sizes"]["events"] == 9
