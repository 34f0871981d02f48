"""Is `ss4rec compare` right: how often does it find what is not there, and how often what is?

`python -m benchmarks.compare` simulates pairs of recipes on 6,040 users: pairs of one recipe (how often is a difference
found that is not there?) and pairs in which the second has 2 % more NDCG@10 (how often is that found?), each with one and
with three seeds a recipe. What is found is said by the rule of `ss4rec compare` itself: permutation p of HR, NDCG and MRR
at 10, adjusted by Holm.

Ranks are drawn with the mean NDCG@10 of ML-1M's recipe (.29), and with users as alike between trainings as they were on
ML-1M: `benchmarks/results/quality-ablation-*.json` hold paired intervals of three seeds against three seeds for small
changes of that recipe, trained on H100s. Their median width says how much a user's gain differs between recipes; the
correlation of a user's log ranks is chosen so that simulated recipes differ as much. All of that is taken to be luck of
the seed, which makes one seed a recipe look as bad as it can be. The same records say by how much the means of seeds
differ; what users' luck does not explain of it moves all ranks of a seed. That is nothing there, so pairs of one recipe
are simulated once more with seeds that differ by .0005 NDCG@10 beside, as two of a small model on ML-100K did.

It writes `compare-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.record import headline, write_record
from ss4rec.evaluation.metrics import METRICS, ndcg
from ss4rec.evaluation.significance import ALPHA, compare_gains, holm

FloatArray = npt.NDArray[np.float64]
NDCG, LOG_SD = 0.29, 1.6
"""Mean NDCG@10; spread of users' log ranks."""
MORE_SHIFT = 0.0005
"""NDCG@10 by which seeds differ beside users' luck, in the second simulation of one recipe."""
RESULTS = Path(__file__).parent / "results"
ABLATIONS = "quality-ablation-2026112*.json"
"""Records of small changes of ML-1M's recipe, three seeds each, paired with three seeds of the recipe."""
ALIKE, USERS, SEEDS = 0.005, 6040, 3
"""Rows whose mean NDCG@10 differs from the recipe's by less than this; users of ML-1M; seeds of a row."""
SCENES = (
    (0.0, 1, 0.0),
    (0.0, 3, 0.0),
    (0.0, 1, MORE_SHIFT),
    (0.0, 3, MORE_SHIFT),
    (0.02, 1, 0.0),
    (0.02, 3, 0.0),
)
"""Relative gain of NDCG@10, seeds a recipe, and NDCG@10 by which seeds differ beside what was measured."""


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
    spread, seeds_differ = measured()
    level = level_of(NDCG)
    agree = agreement(spread, level)
    luck = spread * (SEEDS / 2 / USERS) ** 0.5
    beside = max(seeds_differ**2 - luck**2, 0.0) ** 0.5
    rows: list[dict[str, Any]] = [
        {
            "measured": ABLATIONS,
            "user_spread": spread,
            "correlation_of_log_ranks": agree,
            "seed_spread": seeds_differ,
            "seed_spread_by_users_luck": luck,
            "seed_spread_beside": beside,
        }
    ]
    print(rows[0], flush=True)
    slope = NDCG * 0.01 / (level - level_of(NDCG * 1.01))  # NDCG@10 for a unit of log rank
    with ProcessPoolExecutor(workers) as pool:
        for effect, seeds, more in SCENES:
            levels = (level, level_of(NDCG * (1 + effect)) if effect else level)
            shift = (beside + more) / slope
            draw = Draw(users, levels, seeds, agree, shift)
            results = pool.map(
                partial(found, draw, permutations), range(pairs), chunksize=max(1, pairs // (8 * workers))
            )
            any_found, ndcg_found = np.array(list(results)).mean(0).tolist()
            scene = {"simulated": f"{effect:+.0%} NDCG@10", "seeds": seeds, "seed_shift": beside + more}
            rows.append(
                scene | {"pairs": pairs, "users": users, "found": any_found, "ndcg_found": ndcg_found}
            )
            print(rows[-1], flush=True)
    print(write_record("compare-smoke" if smoke else "compare", rows, headlines(rows[1:]), out))


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the record's figures: of pairs without a difference any metric counts, of the others NDCG@10."""
    of = dict(zip(SCENES, rows, strict=True))
    wrong, wrong_more = (max(of[0.0, seeds, more]["found"] for seeds in (1, 3)) for more in (0.0, MORE_SHIFT))
    three, one = (of[0.02, seeds, 0.0]["ndcg_found"] for seeds in (3, 1))
    more = f"one recipe, seeds differ by {MORE_SHIFT} NDCG@10 beside"
    return [
        headline("compare.false_positive_rate", wrong, "of pairs", 0.05, "one recipe, one or three seeds"),
        headline("compare.false_positive_rate_seeds_apart", wrong_more, "of pairs", None, more),
        headline("compare.power_2_percent", three, "of pairs", 0.8, "three seeds a recipe"),
        headline("compare.power_2_percent_one_seed", one, "of pairs", None, "one seed a recipe"),
    ]


def measured() -> tuple[float, float]:
    """Return what recipes and seeds differ by on ML-1M.

    Returns:
        The spread over users of the difference of NDCG@10 between two recipes (means of three seeds), the median of
        rows; and the spread of the means of seeds of one recipe, pooled over rows.
    """
    spreads, variances = [], []
    for path in sorted(RESULTS.glob(ABLATIONS)):
        for row in json.loads(path.read_text())["rows"]:
            difference = row.get("test", {}).get("difference") or row.get("difference")
            if difference and abs(difference["mean"]) < ALIKE and len(row["runs"]) == SEEDS:
                low, high = difference["interval"]
                spreads.append((high - low) / (2 * 1.96) * USERS**0.5)
                variances.append(np.var([_ndcg_of(run) for run in row["runs"]], ddof=1))
    return median(spreads), float(np.mean(variances)) ** 0.5


def _ndcg_of(run: dict[str, Any]) -> float:
    """Return NDCG@10 of a run, seen items excluded and the target's time known, as rows are compared."""
    for setting in run["test"]["settings"]:
        if (setting["seen"], setting["target_time"]) == ("excluded", "known"):
            return float(setting["metrics"]["NDCG@10"])
    raise ValueError(f"run {run['name']} was not ranked with seen items excluded and times known")


@dataclass(frozen=True)
class Draw:
    """How ranks of two recipes are drawn."""

    users: int
    levels: tuple[float, float]
    """Mean log rank of each recipe."""
    seeds: int
    """Seeds of each."""
    agree: float
    """Correlation of a user's log ranks between trainings."""
    shift: float = 0.0
    """Spread of a seed's own shift of all log ranks."""

    def pair(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Return ranks `[S, U]` of both recipes."""
        own_U = rng.normal(0, LOG_SD * self.agree**0.5, self.users)
        first, second = (self._ranks(rng, own_U + level) for level in self.levels)
        return first, second

    def _ranks(self, rng: np.random.Generator, mean_U: FloatArray) -> FloatArray:
        noise_SU = rng.normal(0, LOG_SD * (1 - self.agree) ** 0.5, (self.seeds, self.users))
        shift_S1 = rng.normal(0, self.shift, (self.seeds, 1))
        return np.maximum(1.0, np.rint(np.exp(mean_U + noise_SU + shift_S1)))


def agreement(spread: float, level: float, users: int = 200_000) -> float:
    """Return the correlation of users' log ranks that gives this spread between means of three seeds, by bisection."""
    low, high = 0.5, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        pair = Draw(users, (level, level), SEEDS, middle).pair(np.random.default_rng(0))
        first_U, second_U = (ndcg.gains(ranks_SU, 10).mean(0) for ranks_SU in pair)
        low, high = (middle, high) if (second_U - first_U).std() > spread else (low, middle)
    return (low + high) / 2


def found(draw: Draw, permutations: int, number: int) -> tuple[bool, bool]:
    """Draw one pair; return whether a difference is found in any metric, and whether in NDCG@10, all adjusted."""
    first_SU, second_SU = draw.pair(np.random.default_rng([number, draw.seeds, round(1e4 * draw.levels[1])]))
    gains = [(metric.gains(first_SU, 10), metric.gains(second_SU, 10)) for metric in METRICS]
    p = holm(
        [compare_gains(*pair, number, permutations, samples=1).p for pair in gains]
    )  # no interval needed
    return min(p) <= ALPHA, p[METRICS.index(ndcg)] <= ALPHA


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
