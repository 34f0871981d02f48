"""What compact states weigh, and what they lose: scores, lists and the metrics of held-out events."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.states.parity import TOP, continued
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.metrics import hit_rate, ndcg
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.recommender import History, Recommender
from ss4rec.states import StateModel
from ss4rec.states.packed import Precision

TOGETHER = 256
"""Users whose scores are in memory at a time."""


def real_histories(
    data: Path, recommender: Recommender, users: int
) -> tuple[list[History], list[int], list[int]]:
    """Return the histories of some users of a prepared folder without the last event, its item and its time.

    Users are drawn with seed 0 from all shards; the items are those of the model.
    """
    folder = PreparedFolder.open(data)
    ids = folder.items["source_id"].to_pylist()
    rows = [
        row for number in range(len(folder.manifest.shards)) for row in folder.read_shard(number).to_pylist()
    ]
    rows = [row for row in rows if len(row["items"]) > 1]
    chosen = np.random.default_rng(0).permutation(len(rows))[:users]
    histories, targets, moments = [], [], []
    for place in chosen:
        row = rows[place]
        *items, target = (ids[item - 1] for item in row["items"])
        histories.append(History(items, row["timestamps"][:-1], None, row["ratings"][:-1]))
        targets.append(recommender.index[target])
        moments.append(row["timestamps"][-1])
    return histories, targets, moments


def compact(
    recommender: Recommender,
    precision: Precision,
    histories: list[History],
    targets: list[int] | None,
    moments: list[int],
    updates: int,
) -> dict[str, Any]:
    """Return size and loss of compact states against full ones.

    Args:
        recommender: the model.
        precision: of the compact states.
        histories: in the order of time.
        targets: item that followed each; None: nobody knows.
        moments: when each list is asked for.
        updates: events at the end of each history that are taken in one by one, as many as there are; each of them
            packs the state anew.
    """
    begun = [max(1, len(history.items) - updates) for history in histories]
    models = StateModel(recommender), StateModel(recommender, precision)
    exact, packed = (continued(model, histories, begun) for model in models)
    errors, shared, same = [], [], []
    ranks: dict[str, list[float]] = {"full": [], "packed": []}
    for start in range(0, len(histories), TOGETHER):
        part = slice(start, start + TOGETHER)
        scores = {
            name: model.scores(states[part], moments[part])
            for name, model, states in (("full", models[0], exact), ("packed", models[1], packed))
        }
        wanted, found = (scores[name].matrix()[:, 1:] for name in ("full", "packed"))
        errors += ((found - wanted).abs().amax(1) / wanted.std(1)).tolist()
        lists = {name: scores[name].top(TOP, exclude_seen=True)[1].tolist() for name in scores}
        for one, other in zip(lists["full"], lists["packed"], strict=True):
            shared.append(len(set(one) & set(other)) / TOP)
            same.append(one == other)
        if targets is not None:
            for name, found_scores in scores.items():
                ranks[name] += target_ranks(found_scores, torch.tensor(targets[part]))[1].tolist()
    row: dict[str, Any] = {
        "precision": precision,
        "users": len(histories),
        "one_by_one": sum(len(history.items) - stop for history, stop in zip(histories, begun, strict=True)),
        "kib_per_user": round(statistics.mean(state.nbytes / 1024 for state in packed), 2),
        "largest_kib": round(max(state.nbytes / 1024 for state in packed), 2),
        "max_error_in_deviations": round(max(errors), 5),
        "mean_error_in_deviations": round(statistics.mean(errors), 5),
        "shared_of_top_10": round(statistics.mean(shared), 4),
        "same_top_10_in_order": round(statistics.mean(same), 4),
    }
    if targets is not None:
        for metric in (hit_rate, ndcg):
            full, less = (metric(np.array(ranks[name]), TOP) for name in ("full", "packed"))
            row |= {f"{metric.name}@10": round(less, 5), f"{metric.name}@10_lost": round(full - less, 5)}
    return row
