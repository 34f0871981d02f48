"""What popularity, a Markov chain and people's own items reach on the test targets of some users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ss4rec.config import DataConfig
from ss4rec.data.audit.facts import IntArray, Reach
from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.reader import eval_rows
from ss4rec.data.batches.source import rebatch
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.baselines import recent_popularity
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.own_items import OwnMostRecent
from ss4rec.evaluation.popularity import MostPopular, TrainingEvents
from ss4rec.evaluation.scorers import Scorer
from ss4rec.evaluation.training import training_parts
from ss4rec.protocol.plan import Plan, make_plan

RECENT_DAYS = (1, 7)
MAX_EVENTS = 5_000_000
"""Events that are counted; of more, those of evenly spread shards."""
SCORES = 1 << 24
"""Numbers of a batch of scores: 128 MiB."""
TIES_MATTER = 0.01
"""Share of gaps of 0 s from which their order is worth a second look."""


def reach(folder: PreparedFolder, plan: Plan, zero_share: float, users: int) -> Reach:
    """Rank with each simple scorer.

    Args:
        folder: the data.
        plan: which events train and which are ranked.
        zero_share: share of gaps of 0 s.
        users: how many users are ranked at most, evenly spread over all.

    Raises:
        DataError: if a shard is missing or damaged.
    """
    shards = range(0, len(folder.manifest.shards), -(-folder.manifest.interactions // MAX_EVENTS))
    paths = [folder.shard_paths[number] for number in shards]
    parts = list(training_parts(paths, folder.manifest.items, plan))
    events = TrainingEvents.of(parts, plan.num_items)
    counts_V = events.counts()
    chain = MarkovChain.of(parts, plan.num_items)
    scorers: dict[str, Scorer] = {
        "most popular": MostPopular(counts_V),
        **recent_popularity(folder, plan, events, RECENT_DAYS),
        "own recent": OwnMostRecent(counts_V),
        "Markov chain": chain,
    }
    asked_U = _asked(folder, plan, users, shards)
    found = _metrics(folder, plan, scorers, asked_U)
    hashed = None
    if zero_share >= TIES_MATTER and plan.protocol.ties != "hash" and folder.manifest.filters.ties != "hash":
        other = make_plan(plan.protocol.model_copy(update={"ties": "hash"}), folder)
        chain = MarkovChain.of(training_parts(paths, folder.manifest.items, other), other.num_items)
        asked_U = _asked(folder, other, users, shards)
        hashed = _metrics(folder, other, {"Markov chain": chain}, asked_U)["Markov chain"]["NDCG@10"]
    return Reach(
        users=len(asked_U),
        events=len(events.items_E),
        seen=plan.protocol.seen,
        hr10=tuple((name, metrics["HR@10"]) for name, metrics in found.items()),
        ndcg10=tuple((name, metrics["NDCG@10"]) for name, metrics in found.items()),
        ties_hashed=hashed,
    )


def _metrics(
    folder: PreparedFolder, plan: Plan, scorers: Mapping[str, Scorer], asked_U: IntArray
) -> dict[str, Mapping[str, float]]:
    """Return the metrics of each scorer in the protocol's own setting of seen items; nobody is told the time."""
    size = max(1, min(512, SCORES // (plan.num_items + 1)))
    batches = list(_batches(folder, plan, asked_U, size))
    return {
        name: summarise(rank_users(scorer, batches), (10,), protocol=plan.protocol)
        .setting(plan.protocol.seen, "unknown")
        .metrics
        for name, scorer in scorers.items()
    }


def _asked(folder: PreparedFolder, plan: Plan, users: int, shards: range) -> IntArray:
    """Return users with a test target, evenly spread over these shards."""
    inside_U = np.isin(folder.users["shard"].to_numpy(), shards)
    ranked_U = np.flatnonzero(inside_U & (np.diff(plan.test.offsets_U1) > 0))
    return ranked_U[np.linspace(0, len(ranked_U) - 1, min(users, len(ranked_U))).astype(np.int64)]


def _batches(folder: PreparedFolder, plan: Plan, asked_U: IntArray, size: int) -> Iterator[EvalBatch]:
    """Yield the test targets of users, one each where they have several."""
    protocol = plan.protocol
    if protocol.kind == "global_time" and protocol.targets == "successive":
        protocol = protocol.model_copy(update={"targets": "random"})
        plan = replace(plan, rules=replace(plan.rules, protocol=protocol))
    shard_U = folder.users["shard"].to_numpy()[asked_U]
    data = DataConfig(max_len=2)  # the scorers here read the last event and what was seen

    def tables() -> Iterator[pa.Table]:
        for number in np.unique(shard_U):
            shard = folder.read_shard(int(number))
            mine = np.isin(shard["user"].to_numpy(), asked_U[shard_U == number])
            yield eval_rows(shard.filter(pa.array(mine)).combine_chunks(), "test", plan, data)

    sizes = [min(size, len(asked_U) - first) for first in range(0, len(asked_U), size)]
    for table in rebatch(tables(), sizes):
        yield collate_eval(table, None)
