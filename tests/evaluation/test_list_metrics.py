"""List metrics: each against a naive reference and a case worked out by hand; in batches as in one piece."""

import itertools
import math

import numpy as np
import pytest
import torch

from ss4rec.evaluation.lists import (
    LIST_METRICS,
    ItemFacts,
    Lists,
    ListTotals,
    accumulate,
    by_popularity_decile,
    hamming_diversity,
    history_shares,
    one_hot,
)

K, ITEMS, USERS = 4, 23, 31
ALL = (*LIST_METRICS, hamming_diversity)


def totals_of(lists, item_facts, k=K):
    totals = ListTotals(item_facts, ALL, k)
    totals.update(lists)
    return totals.result()


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    items_BK = np.array([rng.choice(ITEMS, K, replace=False) + 1 for _ in range(USERS)])
    items_BK[3, 2:] = 0  # a user with two recommendations
    events_V = np.concatenate([[0], rng.integers(0, 9, ITEMS)])
    features_VG = np.concatenate([np.zeros((1, 3)), rng.integers(0, 2, (ITEMS, 3))])
    features_VG[5] = 0
    histories = [rng.integers(1, ITEMS + 1, rng.integers(1, 9)) for _ in range(USERS)]
    targets_B = rng.integers(1, ITEMS + 1, USERS)
    item_facts = ItemFacts(torch.tensor(events_V), torch.tensor(events_V // 2), 12, torch.tensor(features_VG))
    offsets = torch.tensor([0, *np.cumsum([len(h) for h in histories])])
    history_BG = history_shares(torch.tensor(np.concatenate(histories)), offsets, item_facts.shares())
    lists = Lists(torch.tensor(items_BK), torch.tensor(targets_B), history_BG)
    return lists, item_facts, histories


def naive(lists, item_facts, histories):
    """Every metric again, with loops over users, places and pairs."""
    rows = [[item for item in row if item] for row in lists.items_BK.tolist()]
    events, users = item_facts.events_V.tolist(), item_facts.users_V.tolist()
    features = item_facts.features_VG.tolist()
    shown = [sum(item in row for row in rows) for item in range(1, ITEMS + 1)]
    places = sum(shown)
    gaps = [abs(a - b) for a, b in itertools.product(shown, shown)]
    pairs = list(itertools.combinations(rows, 2))
    values = {
        "coverage": sum(count > 0 for count in shown) / ITEMS,
        "Gini": sum(gaps) / (2 * ITEMS * places),  # half the relative mean absolute difference
        "entropy": -sum(c / places * math.log(c / places) for c in shown if c),
        "personalisation": 1 - sum(len(set(a) & set(b)) / K for a, b in pairs) / len(pairs),
        "popularity": np.mean([np.mean([events[i] for i in row]) for row in rows]),
        "novelty": np.mean([np.mean([-math.log2(max(users[i], 1) / 12) for i in row]) for row in rows]),
    }
    levels = sorted({e for e in events[1:] if e}, reverse=True)
    serendipity, far, differ, calibration = [], [], [], []
    for row, target, history in zip(rows, lists.targets_B.tolist(), histories, strict=True):
        gain = 0.0
        for place, item in enumerate(row, start=1):
            rank = levels.index(events[item]) + 1 if events[item] else ITEMS + 1
            if item == target:
                gain += max(0.0, (ITEMS + 1 - place) / ITEMS - (ITEMS + 1 - rank) / ITEMS)
        serendipity.append(gain / K)
        two = list(itertools.combinations(row, 2))
        far.append(np.mean([1 - cosine(features[a], features[b]) for a, b in two]))
        differ.append(
            np.mean([sum(x != y for x, y in zip(features[a], features[b], strict=True)) for a, b in two])
        )
        p, q = shares(history, features), shares(row, features)
        if p is not None:
            q = q or [0.0] * 3
            calibration.append(
                sum(x * math.log(x / (0.99 * y + 0.01 * x)) for x, y in zip(p, q, strict=True) if x)
            )
    return values | {
        "serendipity": np.mean(serendipity), "diversity": np.mean(far), "hamming_diversity": np.mean(differ),
        "miscalibration": np.mean(calibration),
    }  # fmt: skip


def cosine(a, b):
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def shares(items, features):
    rows = [[x / sum(features[i]) for x in features[i]] for i in items if sum(features[i])]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else None


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_equals_a_naive_reference(case, metric):
    found = totals_of(*case[:2]).metrics
    assert found[metric.name] == pytest.approx(naive(*case)[metric.name], abs=1e-12)


def test_batches_equal_one_piece(case, monkeypatch):
    lists, item_facts, _ = case
    whole = totals_of(lists, item_facts)
    monkeypatch.setattr(accumulate, "CHUNK_PLACES", 3 * K)
    totals = ListTotals(item_facts, ALL, K)
    for part in (slice(0, 10), slice(10, 11), slice(11, None)):
        totals.update(Lists(lists.items_BK[part], lists.targets_B[part], lists.history_BG[part]))
    parts = totals.result()
    assert parts.metrics == pytest.approx(whole.metrics, abs=1e-12)
    assert (parts.exposure, parts.num_lists) == (whole.exposure, USERS)


def test_without_features_their_metrics_are_left_out(case):
    lists, item_facts, _ = case
    plain = ItemFacts(item_facts.events_V, item_facts.users_V, 12)
    found = totals_of(Lists(lists.items_BK, lists.targets_B), plain).metrics
    assert "diversity" not in found
    assert "miscalibration" not in found
    assert found["coverage"] == totals_of(lists, item_facts).metrics["coverage"]


def test_by_hand():
    """Three users, items 1 to 4; item 1 is the one that all know."""
    events_V = torch.tensor([0, 8, 4, 2, 1])
    features_VG, names = one_hot([["a"], ["a"], ["b"], ["a", "b"]])
    item_facts = ItemFacts(events_V, events_V, 8, features_VG)
    history_BG = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    lists = Lists(torch.tensor([[1, 2], [1, 3], [1, 4]]), torch.tensor([1, 3, 2]), history_BG)
    found = totals_of(lists, item_facts, k=2).metrics
    assert names == ["a", "b"]
    assert found["coverage"] == 1.0
    assert found["Gini"] == pytest.approx((-3 - 1 + 1 + 3 * 3) / (4 * 6))
    assert found["entropy"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(6))
    assert found["personalisation"] == 0.5
    assert found["popularity"] == pytest.approx((6 + 5 + 4.5) / 3)
    assert found["novelty"] == pytest.approx((0.5 + 1 + 1.5) / 3)
    # The one hit that popularity has lower: item 3 at place 2, which is third by popularity.
    assert found["serendipity"] == pytest.approx((1 / 4) / 2 / 3)
    assert found["diversity"] == pytest.approx((0 + 1 + (1 - 1 / math.sqrt(2))) / 3)
    assert found["hamming_diversity"] == pytest.approx((0 + 2 + 1) / 3)
    kl = [0.0, math.log(1 / (0.99 / 2 + 0.01)), math.log(1 / (0.99 * 0.75 + 0.01))]
    assert found["miscalibration"] == pytest.approx(sum(kl) / 3)


def test_deciles_are_tenths_of_the_items():
    events_V = torch.tensor([0, *range(20, 0, -1)])
    counts_V = torch.zeros(21, dtype=torch.int64)
    counts_V[1], counts_V[2], counts_V[20] = 6, 2, 2
    assert by_popularity_decile(counts_V, events_V) == pytest.approx([0.8, *[0.0] * 8, 0.2])
