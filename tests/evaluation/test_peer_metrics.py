"""Metrics equal RecBole's and RecTools' own functions on the same lists; `tools/peer_metrics.py` made the values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ss4rec.evaluation.lists import (
    LIST_METRICS,
    ItemFacts,
    Lists,
    ListTotals,
    by_popularity_decile,
    hamming_diversity,
)
from ss4rec.evaluation.metrics import ALL_METRICS, RankedTargets, auc_of_lists, average_precision, r_precision

CASE = json.loads((Path(__file__).parent / "golden" / "peer_metrics.json").read_text())
K, USERS, ITEMS = CASE["k"], len(CASE["order"]), len(CASE["features"])
SAME = {
    "recbole": ("HR", "MRR", "MAP", "recall", "NDCG", "precision", "AUC", "popularity", "Gini", "coverage"),
    "rectools": (
        "HR",
        "recall",
        "precision",
        "MRR",
        "NDCG",
        "popularity",
        "coverage",
        "novelty",
        "diversity",
    ),
}


def ranked(targets):
    ranks = [[row.index(item) + 1 for item in held] for row, held in zip(CASE["order"], targets, strict=True)]
    lists_N = np.repeat(np.arange(USERS), [len(row) for row in ranks])
    return RankedTargets.of(np.concatenate(ranks).astype(float), lists_N)


@pytest.fixture(scope="module")
def ours():
    ranks = ranked(CASE["targets"])
    values = {metric.name: float(metric.of_lists(ranks, K).mean()) for metric in ALL_METRICS}
    # RecBole weights users by their held-out items.
    values["AUC"] = float(np.average(auc_of_lists(ranks, ITEMS), weights=ranks.counts_L))
    events_V = np.bincount([item for row in CASE["train"] for item in row], minlength=ITEMS + 1)
    features_VG = torch.tensor([[0] * len(CASE["features"][0]), *CASE["features"]], dtype=torch.float64)
    item_facts = ItemFacts(torch.tensor(events_V), torch.tensor(events_V), USERS, features_VG)
    totals = ListTotals(item_facts, (*LIST_METRICS, hamming_diversity), K)
    first_B = torch.tensor([row[0] for row in CASE["targets"]])
    totals.update(Lists(torch.tensor(CASE["order"])[:, :K], first_B))
    return values | totals.result().metrics


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library, names in SAME.items() for name in names]
)
def test_where_both_define_the_same(ours, library, name):
    assert ours[name] == pytest.approx(CASE[library][name], abs=1e-9)


def test_where_names_or_cases_differ(ours):
    theirs = CASE["rectools"]
    few = ranked(
        [row[:K] for row in CASE["targets"]]
    )  # RecTools divides by all held-out items, not by those that fit
    assert average_precision.of_lists(few, K).mean() == pytest.approx(theirs["MAP of few"], abs=1e-9)
    assert ours["hamming_diversity"] == pytest.approx(theirs["hamming_diversity"], abs=1e-9)
    assert ours["serendipity"] == pytest.approx(theirs["serendipity of one"], abs=1e-9)
    # RecTools counts hits within k: the same where k items or more are held out.
    many = ranked([row if len(row) >= K else [] for row in CASE["targets"]])
    assert r_precision.of_lists(many, K).mean() == pytest.approx(theirs["R-precision of many"], abs=1e-9)
    # RecBole divides the entropy by the number of items shown.
    shown = len({item for row in CASE["order"] for item in row[:K]})
    assert ours["entropy"] == pytest.approx(CASE["recbole"]["entropy"] * shown, abs=1e-9)


def test_the_last_decile_is_recboles_tail():
    """RecBole puts the item with the smaller number last of those with as many events, so numbers are turned round."""
    turned = [[ITEMS + 1 - item for item in row[:K]] for row in CASE["order"]]
    events_V = np.bincount([ITEMS + 1 - item for row in CASE["train"] for item in row], minlength=ITEMS + 1)
    counts_V = np.bincount(np.ravel(turned), minlength=ITEMS + 1)
    shares = by_popularity_decile(torch.tensor(counts_V), torch.tensor(events_V))
    assert shares[9] == pytest.approx(CASE["recbole"]["tail"], abs=1e-9)
