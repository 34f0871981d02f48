"""How fast are the metrics of recommended lists?

`python -m benchmarks.list_metrics` times all list metrics of 200,000 users x 84,432 items, lists of 100: coverage, Gini,
entropy, personalisation, popularity, novelty, serendipity, diversity and calibration with 18 genres and histories of 165
events, exposure by decile beside. Lists come from the host, batch by batch, as they do from a ranking; they are drawn
before the clock starts. Without a card it takes 2,000 users. It writes `list-metrics-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from benchmarks.record import headline, write_record
from ss4rec.evaluation.lists import LIST_METRICS, ItemFacts, Lists, ListTotals, history_shares

ITEMS, K, GENRES, HISTORY = 84_432, 100, 18, 165
ALL_USERS, BATCH = 200_000, 8192
GOAL_S = 60.0
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Lists, targets, histories, and where each history begins and ends."""


@click.command(help=__doc__)
@click.option(
    "--users", type=int, help="Users whose lists are measured. Default: 200,000 on a card, else 2,000."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="200 users; the record is called list-metrics-smoke.")
def main(users: int | None, out: Path, smoke: bool) -> None:
    """Time all list metrics."""
    on_card = torch.cuda.is_available()
    users = 200 if smoke else users or (ALL_USERS if on_card else 2_000)
    device = torch.device("cuda" if on_card else "cpu")
    print(f"drawing lists of {users:,} users ...", flush=True)
    item_facts, batches = draw_lists(users, device)
    measure(batches[:1], item_facts)  # warm
    values, parts = measure(batches, item_facts)
    seconds = sum(parts.values())
    row = {"users": users, "items": ITEMS, "k": K, "seconds": seconds, "parts": parts, "values": values}
    print(row, flush=True)
    found = [headline("metrics.list_seconds_200k", seconds, "s", GOAL_S, "lists of 100")]
    name = "list-metrics-smoke" if smoke else "list-metrics"
    print(write_record(name, [row], found if users >= ALL_USERS else [], out))


def measure(batches: list[Batch], item_facts: ItemFacts) -> tuple[dict[str, float | None], dict[str, float]]:
    """Return all list metrics, and the seconds that histories, lists and the result at the end took."""
    totals = ListTotals(item_facts, LIST_METRICS, K)
    device, shares_VG = item_facts.events_V.device, item_facts.shares()
    seconds = dict.fromkeys(("histories", "lists", "result"), 0.0)
    for number, (items_BK, targets_B, seen_X, offsets_B1) in enumerate(batches, 1):
        began = _now(device)
        history_BG = history_shares(seen_X.to(device), offsets_B1, shares_VG)
        middle = _now(device)
        totals.update(Lists(items_BK, targets_B, history_BG))
        seconds["histories"] += middle - began
        seconds["lists"] += _now(device) - middle
        if number % 8 == 0:
            print(f"{totals.num_lists:,} lists, {sum(seconds.values()):.2f} s", flush=True)
    began = _now(device)
    values = totals.result("genres").metrics
    seconds["result"] = _now(device) - began
    return values, seconds


def _now(device: torch.device) -> float:
    """Return the time, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def draw_lists(users: int, device: torch.device) -> tuple[ItemFacts, list[Batch]]:
    """Draw item facts on the device, and batches of lists and histories on the host."""
    generator = torch.Generator().manual_seed(0)
    events_V = torch.cat([torch.zeros(1), 1e6 / torch.arange(1, ITEMS + 1)]).long()
    features_VG = (torch.rand(ITEMS + 1, GENRES, generator=generator) < 0.12).double()
    features_VG[0] = 0
    item_facts = ItemFacts(events_V, events_V.clamp(max=users), users, features_VG).to(device)
    batches = []
    for first in range(0, users, BATCH):
        size = min(BATCH, users - first)
        draw = torch.rand(size, HISTORY + K + 1, generator=generator)
        items = (ITEMS**draw).long().clamp(1, ITEMS)  # as popular as 1 / rank
        offsets = torch.arange(size + 1) * HISTORY
        batches.append((items[:, :K], items[:, K], items[:, K + 1 :].flatten(), offsets))
    return item_facts, batches


if __name__ == "__main__":
    main()
