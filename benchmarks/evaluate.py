"""Full ranking of many users over a large catalogue on one device, by the real evaluator.

`python -m benchmarks.evaluate` draws 200,000 users with up to 200 events over 84,432 items, builds all batches on the
host first (not timed, as a data loader would have them ready), and times `rank_users` and `summarise` end to end:
copies to the device, encoding, exact ranks in all four settings, metrics with intervals. The paper's model has random
weights; speed does not depend on them. It writes `evaluate-<YYYYMMDD>.json`. `--smoke` does the same with tiny sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow as pa
import torch

from benchmarks.record import headline, write_record
from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.windows import Ranked, list_array, target_windows
from ss4rec.evaluation.evaluator import EvalResult, rank_users, summarise
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.item_scores import CHUNK_SCORES
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset

K = 20
Result = TypeVar("Result")


@click.command(help=__doc__)
@click.option("--users", default=200_000, show_default=True)
@click.option("--items", default=84_432, show_default=True)
@click.option(
    "--length", default=200, show_default=True, help="Longest history; lengths are uniform from 20."
)
@click.option("--batch-users", default=4096, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="Tiny sizes, any device; the record is called evaluate-smoke.")
def main(users: int, items: int, length: int, batch_users: int, out: Path, smoke: bool) -> None:
    """Time the evaluator and its parts."""
    if smoke:
        users, items, length, batch_users = 50, 300, 24, 16
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = SS4Rec(preset("paper").model, items).to(device)
    scorer = ModelScorer(model, unknown_gap_s=60.0, target_time=True)
    batches, prepared_s = timed(device, lambda: draw_batches(users, items, length, batch_users))
    sizes = {
        "users": users, "items": items, "events": sum(b.items_T.numel() for b in batches),
        "batch_users": batch_users, "chunk_scores": CHUNK_SCORES,
    }  # fmt: skip
    print(f"{sizes}; batches built on the host in {prepared_s:.1f} s (not timed below)", flush=True)
    _, warm_s = timed(device, lambda: evaluate(scorer, [batches[0], batches[-1]]))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    results, whole_s = zip(*(timed(device, lambda: evaluate(scorer, batches)) for _ in range(2)), strict=True)
    seconds = min(whole_s)
    rows = [
        {"what": "evaluator, four settings, end to end", "seconds": seconds, "each": whole_s, **sizes},
        {"what": "first two batches, with compilation", "seconds": warm_s},
        *parts(scorer, batches, device),
    ]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    for row in rows:
        print(f"{row['what']:45s} {row['seconds']:8.3f} s", flush=True)
    print(f"peak {peak} GiB; {results[0].settings[0].metrics}")
    what = f"{users:,} users x {items:,} items, encoding, exact ranks in four settings, metrics; batches prebuilt on the host"
    full = users >= 200_000 and items >= 84_432
    found = [headline("evaluate.seconds_200k_users", seconds, "s", 10.0, what)] if full else []
    rows[0] |= {"memory_gib": peak, "backends": model.backends}
    print(f"{seconds:.3f} s for {what}")
    print(write_record("evaluate-smoke" if smoke else "evaluate", rows, found, out))


def evaluate(scorer: ModelScorer, batches: Sequence[EvalBatch]) -> EvalResult:
    """Rank and summarise as an evaluation does."""
    return summarise(rank_users(scorer, batches), (5, 10, 20))


def parts(scorer: ModelScorer, batches: Sequence[EvalBatch], device: torch.device) -> list[dict[str, Any]]:
    """Time encoding, ranking and the best items apart, each over all users with the target's time known."""
    with torch.inference_mode():
        scores, encode_s = timed(device, lambda: [scorer.scores(b, target_time_known=True) for b in batches])
        ranks = [lambda s=s, b=b: target_ranks(s, b.targets_S) for s, b in zip(scores, batches, strict=True)]
        _, rank_s = timed(device, lambda: [rank() for rank in ranks])
        _, best_s = timed(device, lambda: [s.top(K, exclude_seen=True) for s in scores])
    return [
        {"what": "encoding and sorting of seen items, one setting", "seconds": encode_s},
        {"what": "ranks, seen kept and excluded, one setting", "seconds": rank_s},
        {"what": f"best {K} unseen items of every user", "seconds": best_s},
    ]


def timed(device: torch.device, call: Callable[[], Result]) -> tuple[Result, float]:
    """Return a call's result and its seconds, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def draw_batches(users: int, items: int, length: int, batch_users: int) -> list[EvalBatch]:
    """Draw histories of 20 to `length` events of random items with gaps from seconds to days, and a target each."""
    rng = np.random.default_rng(0)
    batches = []
    for first in range(0, users, batch_users):
        users_S = np.arange(first, min(first + batch_users, users), dtype=np.int32)
        lengths_S = rng.integers(min(20, length), length + 1, len(users_S)) + 1  # and the target
        offsets_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
        gaps_E = np.exp(rng.random(offsets_S1[-1]) * 12).astype(np.int64)
        # Times rise over all users, and so do each user's.
        columns = {
            "items": rng.integers(1, items + 1, offsets_S1[-1]).astype(np.int32),
            "timestamps": 1_000_000_000 + np.cumsum(gaps_E),
            "ratings": np.full(offsets_S1[-1], 4.0, np.float32),
        }
        lists = {name: list_array(values, offsets_S1) for name, values in columns.items()}
        shard = pa.table({"user": users_S, **lists})
        last_S = offsets_S1[1:] - 1
        ranked = Ranked(
            np.arange(len(users_S)),
            lengths_S - 1,
            columns["items"][last_S],
            columns["timestamps"][last_S],
        )
        batches.append(collate_eval(target_windows(shard, ranked, max_len=length, target_time=True)))
    return batches


if __name__ == "__main__":
    main()
