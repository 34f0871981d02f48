"""Is `ss4rec compare` right, and how fast are the metrics of lists?

`python -m benchmarks.compare` simulates pairs of recipes on 6,040 users: pairs of one recipe (how often is a difference
found that is not there?) and pairs in which the second has 2 % more NDCG@10 (how often is it found?), each with one and
with three seeds a recipe. Ranks are drawn so that mean NDCG@10 is that of ML-1M's recipe (.29) and that two seeds of one
recipe agree as much as two trained models do: log ranks of users correlate by .955 (two seeds of a small model on
ML-100K), and seeds differ by .0005 NDCG@10 beside. Then it times all list metrics of 200,000 users x 84,432 items,
lists of 100 (2,000 users without a card, or with `--smoke`). It writes `compare-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.record import headline, write_record
from ss4rec.evaluation.lists import LIST_METRICS, ItemFacts, Lists, ListTotals, history_shares
from ss4rec.evaluation.metrics import METRICS, ndcg
from ss4rec.evaluation.significance import ALPHA, compare_gains, holm

NDCG, LOG_SD, AGREE, SEED_SHIFT = 0.29, 1.6, 0.955, 0.003
"""Mean NDCG@10; spread of users' log ranks; its correlation between seeds; spread of a seed's own shift."""
ITEMS, K, GENRES, HISTORY = 84_432, 100, 18, 165


@click.command(help=__doc__)
@click.option("--pairs", default=200, show_default=True)
@click.option("--users", default=6040, show_default=True)
@click.option("--permutations", default=2000, show_default=True)
@click.option(
    "--list-users", type=int, help="Users whose lists are measured. Default: 200,000 on a card, else 2,000."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="Few pairs and users; the record is called compare-smoke.")
def main(pairs: int, users: int, permutations: int, list_users: int | None, out: Path, smoke: bool) -> None:
    """Simulate comparisons and time list metrics."""
    if smoke:
        pairs, users, permutations, list_users = 4, 300, 199, 200
    on_card = torch.cuda.is_available()
    list_users = list_users or (200_000 if on_card else 2_000)
    rows, found = [], {}
    for effect, seeds in ((0.0, 1), (0.0, 3), (0.02, 1), (0.02, 3)):
        rate = found_rate(pairs, users, permutations, effect, seeds)
        found[effect, seeds] = rate
        rows.append(
            {
                "simulated": f"{effect:+.0%} NDCG@10",
                "seeds": seeds,
                "pairs": pairs,
                "users": users,
                "found": rate,
            }
        )
        print(rows[-1], flush=True)
    seconds = list_seconds(list_users, torch.device("cuda" if on_card else "cpu"))
    rows.append(
        {"timed": "all list metrics", "users": list_users, "items": ITEMS, "k": K, "seconds": seconds}
    )
    print(rows[-1])
    headlines = [
        headline(
            "compare.false_positive_rate", max(found[0.0, 1], found[0.0, 3]), "of pairs", 0.05, "one recipe"
        ),
        headline("compare.power_2_percent", found[0.02, 3], "of pairs", 0.8, "three seeds a recipe"),
        headline("compare.power_2_percent_one_seed", found[0.02, 1], "of pairs", None, "one seed a recipe"),
    ]
    if list_users >= 200_000:
        headlines.append(headline("metrics.list_seconds_200k", seconds, "s", 60.0, "lists of 100"))
    print(write_record("compare-smoke" if smoke else "compare", rows, headlines, out))


def found_rate(pairs: int, users: int, permutations: int, effect: float, seeds: int) -> float:
    """Return how often a difference is found, by the same rule as `ss4rec compare`: any metric after Holm."""
    rng = np.random.default_rng(1)
    level = level_of(NDCG)
    better = level_of(NDCG * (1 + effect)) if effect else level
    hits = 0
    for number in range(pairs):
        own_U = rng.normal(0, LOG_SD * AGREE**0.5, users)
        first, second = (draw_ranks(rng, own_U, mean, seeds) for mean in (level, better))
        p = [
            compare_gains(metric.gains(first, 10), metric.gains(second, 10), number, permutations).p
            for metric in METRICS
        ]
        hits += min(holm(p)) <= ALPHA
    return hits / pairs


def draw_ranks(rng: np.random.Generator, own_U: np.ndarray, mean: float, seeds: int) -> np.ndarray:
    """Return ranks `[S, U]` of users with log ranks around `own_U + mean`."""
    noise_SU = rng.normal(0, LOG_SD * (1 - AGREE) ** 0.5, (seeds, len(own_U)))
    shift_S1 = rng.normal(0, SEED_SHIFT, (seeds, 1))
    return np.maximum(1.0, np.rint(np.exp(own_U + mean + noise_SU + shift_S1)))


def level_of(value: float) -> float:
    """Return the mean log rank that gives this NDCG@10, by bisection on one large draw."""
    noise = np.random.default_rng(0).normal(0, LOG_SD, 1_000_000)
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        ranks = np.maximum(1.0, np.rint(np.exp(noise + middle)))
        low, high = (middle, high) if ndcg(ranks, 10) > value else (low, middle)
    return (low + high) / 2


def list_seconds(users: int, device: torch.device) -> float:
    """Return the seconds of all list metrics, histories' genres included; lists are drawn before."""
    batch = 4096
    item_facts, batches = draw_lists(users, batch, device)
    run = lambda parts: measure(parts, item_facts)  # noqa: E731
    run(batches[:1])  # warm
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = run(batches)
    seconds = time.perf_counter() - began
    print({name: round(value, 4) for name, value in result.items()})
    return seconds


def measure(parts: list[tuple[torch.Tensor, ...]], item_facts: ItemFacts) -> dict[str, Any]:
    """Return all list metrics of some batches of (lists, targets, histories, offsets)."""
    totals = ListTotals(item_facts, LIST_METRICS, K)
    device, shares_VG = item_facts.events_V.device, item_facts.shares()
    for items_BK, targets_B, seen_X, offsets_B1 in parts:
        history_BG = history_shares(seen_X.to(device), offsets_B1, shares_VG)
        totals.update(Lists(items_BK, targets_B, history_BG))
    return totals.result("genres").metrics


def draw_lists(
    users: int, batch: int, device: torch.device
) -> tuple[ItemFacts, list[tuple[torch.Tensor, ...]]]:
    """Draw item facts on the device, and batches of lists and histories on the host."""
    generator = torch.Generator().manual_seed(0)
    events_V = torch.cat([torch.zeros(1), 1e6 / torch.arange(1, ITEMS + 1)]).long()
    features_VG = (torch.rand(ITEMS + 1, GENRES, generator=generator) < 0.12).double()
    features_VG[0] = 0
    item_facts = ItemFacts(events_V, events_V.clamp(max=users), users, features_VG).to(device)
    batches = []
    for first in range(0, users, batch):
        size = min(batch, users - first)
        draw = torch.rand(size, HISTORY + K + 1, generator=generator)
        items = (ITEMS**draw).long().clamp(1, ITEMS)  # as popular as 1 / rank
        offsets = torch.arange(size + 1) * HISTORY
        batches.append((items[:, :K], items[:, K], items[:, K + 1 :].flatten(), offsets))
    return item_facts, batches


if __name__ == "__main__":
    main()
