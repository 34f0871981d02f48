"""Compute metrics of random lists with RecBole's and RecTools' own functions, as golden values of the tests.

They need an environment of their own (`pip install --no-deps recbole==1.2.1 rectools==0.19.0`, and what they import):

    PEERS/bin/python tools/peer_metrics.py tests/evaluation/golden/peer_metrics.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

np.float, np.bool = float, bool  # type: ignore[attr-defined]  # RecBole 1.2.1 still uses these names

USERS, ITEMS, K, FEATURES = 40, 60, 10, 5


def main() -> None:
    """Write the file that is named on the command line."""
    case = make_case()
    case |= {"recbole": recbole(case), "rectools": rectools(case)}
    Path(sys.argv[1]).write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")


def make_case() -> dict[str, Any]:
    """Return whole rankings, held-out items, training events and item features; all items from 1."""
    rng = np.random.default_rng(1)
    popularity = rng.permutation(1 / np.arange(1, ITEMS + 1))
    popularity /= popularity.sum()
    order = [rng.choice(ITEMS, ITEMS, replace=False, p=popularity) + 1 for _ in range(USERS)]
    targets = [
        sorted((rng.choice(ITEMS, rng.integers(1, 16), replace=False) + 1).tolist()) for _ in range(USERS)
    ]
    train = [(rng.choice(ITEMS, 12, replace=False, p=popularity) + 1).tolist() for _ in range(USERS)]
    features = rng.integers(0, 2, (ITEMS, FEATURES))
    return {
        "k": K,
        "order": [row.tolist() for row in order],
        "targets": targets,
        "train": train,
        "features": features.tolist(),
    }


def recbole(case: dict[str, Any]) -> dict[str, float]:
    """Return RecBole's values at k, without its rounding."""
    from recbole.evaluator import metrics as theirs

    config = {"topk": [K], "metric_decimal_place": 12, "tail_ratio": 0.1}
    lists = np.array(case["order"])[:, :K]
    hits = np.array([np.isin(row, held) for row, held in zip(lists, case["targets"], strict=True)]).astype(
        int
    )
    held = np.array([len(row) for row in case["targets"]])
    found = {
        "HR": theirs.Hit(config).metric_info(hits),
        "MRR": theirs.MRR(config).metric_info(hits),
        "MAP": theirs.MAP(config).metric_info(hits, held),
        "recall": theirs.Recall(config).metric_info(hits, held),
        "NDCG": theirs.NDCG(config).metric_info(hits, held),
        "precision": theirs.Precision(config).metric_info(hits),
    }
    values = {name: float(value[:, K - 1].mean()) for name, value in found.items()}
    ranks = [
        sum(row.index(item) + 1 for item in held)
        for row, held in zip(case["order"], case["targets"], strict=True)
    ]
    lengths = np.full(USERS, ITEMS)
    values["AUC"] = float(theirs.GAUC(config).metric_info(np.array(ranks, float), lengths, held))
    counts = dict(Counter(item for row in case["train"] for item in row))
    popularity = theirs.AveragePopularity(config)
    values["popularity"] = float(popularity.metric_info(popularity.get_pop(lists, counts))[:, K - 1].mean())
    values["Gini"] = float(theirs.GiniIndex(config).get_gini(lists, ITEMS))
    values["entropy"] = float(theirs.ShannonEntropy(config).get_entropy(lists))
    values["coverage"] = float(theirs.ItemCoverage(config).get_coverage(lists, ITEMS))
    tail = theirs.TailPercentage(config)
    values["tail"] = float(tail.metric_info(tail.get_tail(lists, counts))[:, K - 1].mean())
    return values


def rectools(case: dict[str, Any]) -> dict[str, float]:
    """Return RecTools' values at k; list metrics that look at held-out items get the first of each user."""
    from rectools import metrics as theirs

    def table(rows: list[list[int]]) -> pd.DataFrame:
        pairs = [(user, item) for user, row in enumerate(rows) for item in row]
        return pd.DataFrame(pairs, columns=["user_id", "item_id"])

    reco = table([row[:K] for row in case["order"]])
    reco["rank"] = reco.groupby("user_id").cumcount() + 1
    held, train = table(case["targets"]), table(case["train"])
    first = table([row[:1] for row in case["targets"]])
    catalog = list(range(1, ITEMS + 1))
    features = pd.DataFrame(case["features"], index=catalog)
    distance = theirs.PairwiseHammingDistanceCalculator(features)
    many = table([row if len(row) >= K else [] for row in case["targets"]])
    return {
        "HR": float(theirs.HitRate(K).calc(reco, held)),
        "recall": float(theirs.Recall(K).calc(reco, held)),
        "precision": float(theirs.Precision(K).calc(reco, held)),
        "R-precision of many": float(theirs.Precision(K, r_precision=True).calc(reco, many)),
        "MRR": float(theirs.MRR(K).calc(reco, held)),
        "MAP of few": float(theirs.MAP(K).calc(reco, table([row[:K] for row in case["targets"]]))),
        "NDCG": float(theirs.NDCG(K, divide_by_achievable=True).calc(reco, held)),
        "popularity": float(theirs.AvgRecPopularity(K).calc(reco, train)),
        "coverage": float(theirs.CatalogCoverage(K, normalize=True).calc(reco, catalog)),
        "novelty": float(theirs.MeanInvUserFreq(K).calc(reco, train)),
        "hamming_diversity": float(theirs.IntraListDiversity(K, distance).calc(reco)),
        "diversity": float(theirs.IntraListDiversity(K, _cosine(features)).calc(reco)),
        "serendipity of one": float(theirs.Serendipity(K).calc(reco, first, train, catalog)),
    }


def _cosine(features: pd.DataFrame) -> Any:
    """Return 1 - cosine of two items' features as a distance of RecTools, which has none of its own."""
    from rectools.metrics.distances import PairwiseDistanceCalculator

    class Cosine(PairwiseDistanceCalculator):
        """1 - cosine, by scipy; an item without features has nothing in common with any."""

        def _get_distances_for_item_pairs(self, items_0: Any, items_1: Any) -> Any:
            from scipy.spatial.distance import cosine

            pairs = zip(features.loc[items_0].to_numpy(), features.loc[items_1].to_numpy(), strict=True)
            return np.array([cosine(a, b) if a.any() and b.any() else 1.0 for a, b in pairs])

    return Cosine()


if __name__ == "__main__":
    main()
