"""Is `ss4rec compare` right: how often does it find what is not there, and how often what is?

`python -m benchmarks.compare` simulates pairs of recipes on 6,040 users: pairs of one recipe (how often is a difference
found that is not there?) and pairs in which the second has 2 % more NDCG@10 (how often is that found?), each with one and
with three seeds a recipe. What is found is said by the rule of `ss4rec compare` itself: permutation p of HR, NDCG and MRR
at 10, adjusted by Holm.

Ranks are drawn with the mean NDCG@10 of ML-1M's recipe (.29), and with users as alike between trainings as they were on
ML-1M: `benchmarks/results/quality-ablation-*.json` hold paired intervals of three seeds against three seeds for small
changes of that recipe, trained on H100s. Their median width says how much a user's gain differs between recipes; the
correlation of a user's log ranks is chosen so that simulated recipes differ as much. All of that is taken to be luck of
the seed, which makes one seed a recipe look as bad as it can be. Seeds differ by about .0005 NDCG@10 beside.

It writes `compare-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import click
import numpy as np

from benchmarks.record import headline, write_record
from ss4rec.evaluation.metrics import METRICS, ndcg
from ss4rec.evaluation.significance import ALPHA, compare_gains, holm

NDCG, LOG_SD, SEED_SHIFT = 0.29, 1.6, 0.003
"""Mean NDCG@10; spread of users' log ranks; spread of a seed's own shift of them."""
RESULTS = Path(__file__).parent / "results"
ABLATIONS = "quality-ablation-2026112*.json"
"""Records of small changes of ML-1M's recipe, three seeds each, paired with three seeds of the recipe."""
ALIKE, USERS, SEEDS = 0.005, 6040, 3
"""Rows whose mean NDCG@10 differs from the recipe's by less than this; users of ML-1M; seeds of a row."""
SCENES = ((0.0, 1), (0.0, 3), (0.02, 1), (0.02, 3))
"""Relative gain of NDCG@10, and seeds a recipe."""


@click.command(help=__doc__)
@click.option("--pairs", default=200, show_default=True)
@click.option("--users", default=USERS, show_default=True)
@click.option("--permutations", default=2000, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
@click.option("--smoke", is_flag=True, help="Few pairs and users; the record is called compare-smoke.")
def main(pairs: int, users: int, permutations: int, workers: int, out: Path, smoke: bool) -> None:
    """Simulate comparisons."""
    if smoke:
        pairs, users, permutations = 4, 300, 199
    spread, level = measured_spread(), level_of(NDCG)
    agree = agreement(spread, level)
    print(
        f"a user's NDCG@10 differs by {spread:.4f}: log ranks of users correlate by {agree:.3f}", flush=True
    )
    rows = [{"measured": ABLATIONS, "user_spread": spread, "correlation_of_log_ranks": agree}]
    with ProcessPoolExecutor(workers) as pool:
        for effect, seeds in SCENES:
            better = level_of(NDCG * (1 + effect)) if effect else level
            levels = (level, better)
            one = partial(
                found, users=users, permutations=permutations, levels=levels, seeds=seeds, agree=agree
            )
            results = np.array(list(pool.map(one, range(pairs), chunksize=max(1, pairs // (8 * workers)))))
            any_found, ndcg_found = results.mean(0).tolist()
            scene = {"simulated": f"{effect:+.0%} NDCG@10", "seeds": seeds, "pairs": pairs, "users": users}
            rows.append(scene | {"found": any_found, "ndcg_found": ndcg_found})
            print(rows[-1], flush=True)
    print(write_record("compare-smoke" if smoke else "compare", rows, headlines(rows[1:]), out))


def headlines(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the record's figures: of pairs without a difference any metric counts, of the others NDCG@10."""
    by_scene = dict(zip(SCENES, rows, strict=True))
    wrong = max(float(str(by_scene[0.0, seeds]["found"])) for seeds in (1, 3))
    three, one = (float(str(by_scene[0.02, seeds]["ndcg_found"])) for seeds in (3, 1))
    return [
        headline("compare.false_positive_rate", wrong, "of pairs", 0.05, "one recipe, one or three seeds"),
        headline("compare.power_2_percent", three, "of pairs", 0.8, "three seeds a recipe"),
        headline("compare.power_2_percent_one_seed", one, "of pairs", None, "one seed a recipe"),
    ]


def measured_spread() -> float:
    """Return the spread over users of the difference of NDCG@10 of two recipes, means of three seeds, on ML-1M."""
    spreads = []
    for path in sorted(RESULTS.glob(ABLATIONS)):
        for row in json.loads(path.read_text())["rows"]:
            difference = row.get("test", {}).get("difference") or row.get("difference")
            if difference and abs(difference["mean"]) < ALIKE and len(row["runs"]) == SEEDS:
                low, high = difference["interval"]
                spreads.append((high - low) / (2 * 1.96) * USERS**0.5)
    return median(spreads)


def agreement(spread: float, level: float, users: int = 200_000) -> float:
    """Return the correlation of users' log ranks that gives this spread between means of three seeds, by bisection."""
    low, high = 0.5, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        rng = np.random.default_rng(0)
        own_U = rng.normal(0, LOG_SD * middle**0.5, users)
        first, second = (
            ndcg.gains(draw_ranks(rng, own_U, level, SEEDS, middle), 10).mean(0) for _ in range(2)
        )
        low, high = (middle, high) if (second - first).std() > spread else (low, middle)
    return (low + high) / 2


def found(
    number: int, *, users: int, permutations: int, levels: tuple[float, float], seeds: int, agree: float
) -> tuple[bool, bool]:
    """Draw one pair; return whether a difference is found in any metric, and whether in NDCG@10, all adjusted."""
    rng = np.random.default_rng([number, seeds, round(1000 * levels[1])])
    own_U = rng.normal(0, LOG_SD * agree**0.5, users)
    first, second = (draw_ranks(rng, own_U, level, seeds, agree) for level in levels)
    p = holm(
        [compare_gains(m.gains(first, 10), m.gains(second, 10), number, permutations).p for m in METRICS]
    )
    return min(p) <= ALPHA, p[METRICS.index(ndcg)] <= ALPHA


def draw_ranks(
    rng: np.random.Generator, own_U: np.ndarray, level: float, seeds: int, agree: float
) -> np.ndarray:
    """Return ranks `[S, U]` of users with log ranks around `own_U + level`."""
    noise_SU = rng.normal(0, LOG_SD * (1 - agree) ** 0.5, (seeds, len(own_U)))
    shift_S1 = rng.normal(0, SEED_SHIFT, (seeds, 1))
    return np.maximum(1.0, np.rint(np.exp(own_U + level + noise_SU + shift_S1)))


def level_of(value: float) -> float:
    """Return the mean log rank that gives this NDCG@10, by bisection on one large draw."""
    noise = np.random.default_rng(0).normal(0, LOG_SD, 1_000_000)
    low, high = 0.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        ranks = np.maximum(1.0, np.rint(np.exp(noise + middle)))
        low, high = (middle, high) if ndcg(ranks, 10) > value else (low, middle)
    return (low + high) / 2


if __name__ == "__main__":
    main()
