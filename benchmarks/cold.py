"""Cold films: 10 % of ML-1M's films, chosen by a hash, never train, and features alone have to rank them.

`python -m benchmarks.cold --ml-1m ML-1M.zip [--minutes 20]` prepares ML-1M without the events on held-out films, but for
those that are a user's last. Leave-one-out then tests on every user's last event, about a tenth of them cold. Two models
are trained with the recipe of `auto`, as long as one another: one reads genres, year, period and title of films, one
reads none of them. Both rank all films for every user.

Popularity by genre is the rival that knows as much of a film: a cold film has as many events as the mean of the warm
films with its genres. It comes in three kinds, and the best of them counts: the same for all, weighted by the genres
of the user's history, and the genres' weights in the history alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks.record import headline, write_record
from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.features import encode_features
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_attributes import release_year
from ss4rec.data.prepared.manifest import Feature, Filters
from ss4rec.data.sources.features import FeatureTable
from ss4rec.data.sources.rows import Catalogue
from ss4rec.data.ties import hashed
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.evaluator import rank_users
from ss4rec.evaluation.lists import history_shares, one_hot
from ss4rec.evaluation.metrics import hit_rate, ndcg
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.evaluation.training import training_parts
from ss4rec.model.item_scores import ItemScores
from ss4rec.protocol.plan import Plan, plan_of_run
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.status import say
from ss4rec.train.worker import loop_alone

SHARE = 10
"""One film in so many is held out."""
FEATURES = ("genres", "year", "period", "title")
"""Kept in the prepared folder, so that training needs no package that makes them."""
K = 10
CPU = torch.device("cpu")


def held_out(ids: npt.NDArray[np.int64], seed: int = 0) -> npt.NDArray[np.bool_]:
    """Return which films never train; the same ones in any subset of them."""
    return hashed(ids, np.full(len(ids), seed)) % np.uint64(SHARE) == 0


def prepare_cold(source: Path, out: Path, users: int | None) -> PreparedFolder:
    """Write the folder in which held-out films are the last events of users only.

    Args:
        source: ML-1M.
        out: the folder; one that is there is taken as it is.
        users: how many to take, by a hash, for a small machine; None: all.
    """
    if not (out / "manifest.json").exists():
        whole = out.with_name(f"{out.name}-whole")
        if not (whole / "manifest.json").exists():
            prepare(source, whole, k_core=0)
        folder = PreparedFolder.open(whole)
        events = folder.sequences()
        cold_V = held_out(events.items.source_id.to_numpy())
        numbers_U = np.arange(len(events.user_ids))
        taken_U = hashed(numbers_U, np.ones_like(numbers_U)).argsort().argsort() < (users or len(numbers_U))
        kept_E = ~cold_V[events.items_E - 1]
        kept_E[events.offsets_U1[1:] - 1] = True
        kept_E &= np.repeat(taken_U, np.diff(events.offsets_U1))
        left_U = np.add.reduceat(kept_E.astype(int), events.offsets_U1[:-1])
        kept_E &= np.repeat(left_U >= 3, np.diff(events.offsets_U1))
        dropped = folder.manifest.rows_dropped | {"held_out": int((~kept_E).sum())}
        kept = events.select(kept_E)
        items, meaning = with_features(kept.items)
        write_prepared(
            out, replace(kept, items=items), name=f"{folder.manifest.name}-cold", source=folder.manifest.source,
            filters=Filters(k_core=0), rows_dropped=dropped, features={"items": meaning},
        )  # fmt: skip
    return PreparedFolder.open(out)


def with_features(items: Catalogue) -> tuple[Catalogue, tuple[Feature, ...]]:
    """Return films with genres, year, period of five years and words of the title as features, and their meaning."""
    years = [release_year(title) for title in items.title.to_pylist()]
    columns = {
        "genres": items.genres,
        "year": pa.array(years, pa.int64()),
        "period": pa.array([None if year is None else year // 5 * 5 for year in years], pa.int64()),
        "title": items.title,
    }
    kinds = {"genres": "multi", "year": "categorical", "period": "categorical", "title": "text"}
    known = FeatureTable("ML-1M", items.source_id, pa.table(columns))
    encoded, meaning = encode_features(items.source_id, known, kinds)
    return replace(items, features=encoded), meaning


def train(data: PreparedFolder, run: Path, minutes: float, changes: dict[str, Any]) -> RunConfig:
    """Train with the recipe of `auto`; a run that was trained before is left as it is."""
    plain = {"data.source": "local", "tracking.wandb": "disabled", "model.item_attributes": False}
    gpu = torch.cuda.is_available()
    config = Auto(Protocol(), plain | changes, minutes)(data, gpu, say)
    with loop_alone(config, data, run, torch.device("cuda" if gpu else "cpu")) as loop:
        loop.run()
    return config


class GenrePopularity:
    """Scores films by the events of films with their genres; films that trained by their own, unless `genres_only`.

    Args:
        counts_V: training events.
        genres_VG: genres, 0/1.
        personal: whether events of a genre count as often as the user's history has it.
        genres_only: whether all films of the same genres score the same.
    """

    uses_target_time = False

    def __init__(
        self, counts_V: torch.Tensor, genres_VG: torch.Tensor, *, personal: bool, genres_only: bool
    ) -> None:
        self.shares_VG = genres_VG / genres_VG.sum(1, keepdim=True).clamp_min(1)
        trained_V1 = (counts_V > 0).double()[:, None]
        mean_G = (self.shares_VG * counts_V[:, None]).sum(0) / (self.shares_VG * trained_V1).sum(0).clamp_min(
            1e-9
        )
        by_genre_V = self.shares_VG @ mean_G
        own_V = torch.where((counts_V > 0) & (not genres_only), counts_V, by_genre_V)
        self.weights_VG = self.shares_VG * own_V[:, None]
        self.genres_only, self.personal = genres_only, personal

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores of all films for each target."""
        taste_BG = torch.ones(batch.num_sequences, self.weights_VG.shape[1], dtype=torch.float64)
        if self.personal:
            taste_BG = history_shares(batch.seen_X, batch.seen_offsets_S1, self.shares_VG).double()
        rows_VG = self.shares_VG if self.genres_only and self.personal else self.weights_VG
        return ItemScores.of_matrix(taste_BG @ rows_VG.T, batch.seen_X, batch.seen_offsets_S1)


def rivals(data: PreparedFolder, plan: Plan) -> dict[str, Scorer]:
    """Return the kinds of popularity by genre."""
    parts = training_parts(data.shard_paths, data.manifest.items, plan)
    counts_V = sum(torch.from_numpy(np.bincount(p.items_E, minlength=plan.num_items + 1)) for p in parts)
    assert isinstance(counts_V, torch.Tensor)
    genres_VG = one_hot(plan.items(data)["genres"].to_pylist())[0].double()
    kinds = {"same for all": (False, False), "by taste": (True, False), "taste alone": (True, True)}
    return {
        f"popularity by genre, {name}": GenrePopularity(
            counts_V.double(), genres_VG, personal=personal, genres_only=genres_only
        )
        for name, (personal, genres_only) in kinds.items()
    }


def ranks_among_cold(
    scorer: Scorer, source: LocalSource, cold_V: npt.NDArray[np.bool_], batch_users: int
) -> npt.NDArray[np.float64]:
    """Return the ranks of cold targets among cold films alone, in the order of users."""
    found = []
    place_V = torch.from_numpy(np.cumsum(cold_V) * cold_V)
    for batch in source.eval_batches("test", batch_users):
        rows = torch.nonzero(place_V[batch.targets_S]).flatten()
        if not len(rows):
            continue
        scores_RV = scorer.scores(batch, target_time_known=True).matrix()[rows.to(CPU)]
        own_RC = torch.cat([scores_RV[:, :1], scores_RV[:, torch.from_numpy(cold_V)]], dim=1)
        nothing = torch.zeros(len(rows) + 1, dtype=torch.int64)
        scores = ItemScores.of_matrix(own_RC, torch.zeros(0, dtype=torch.int64), nothing)
        found.append(target_ranks(scores, place_V[batch.targets_S[rows]])[0].cpu().numpy())
    return np.concatenate(found)


def measure(
    scorer: Scorer, config: RunConfig, data: PreparedFolder, plan: Plan, cold_V: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Rank every user's last event, seen films excluded; return what is kept of it, and gains by user."""
    source = LocalSource(data, config.data, batch_size=config.train.batch_size, seed=0, plan=plan)
    with torch.inference_mode():
        ranks = rank_users(scorer, source.eval_batches("test", config.evaluation.batch_users))
        among_N = ranks_among_cold(scorer, source, cold_V, config.evaluation.batch_users)
    ranks_N, target_N = ranks["rank_excluded_known"].to_numpy(), ranks["target"].to_numpy()
    cold_N = cold_V[target_N]
    hits_N = hit_rate.gains(ranks_N[cold_N], K)
    return {
        "cold_targets": int(cold_N.sum()),
        "cold_items": int(cold_V.sum()),
        "cold_hr10": float(hits_N.mean()),
        "cold_hits10": int(hits_N.sum()),
        "cold_median_rank": float(np.median(ranks_N[cold_N])),
        "cold_hr10_among_cold": float(hit_rate.gains(among_N, K).mean()),
        "warm_hr10": float(hit_rate.gains(ranks_N[~cold_N], K).mean()),
        "warm_ndcg10": float(ndcg.gains(ranks_N[~cold_N], K).mean()),
        "gains_by_user": dict(
            zip(
                ranks["user"].to_numpy()[~cold_N].tolist(),
                ndcg.gains(ranks_N[~cold_N], K).tolist(),
                strict=True,
            )
        ),
    }


def model_row(run: Path, config: RunConfig, data: PreparedFolder, wide: Plan) -> dict[str, Any]:
    """Measure a run's best checkpoint; what is cold is said by the plan of the run that reads features."""
    plan = plan_of_run(config, data)
    items_I = np.arange(1, plan.num_items + 1) if plan.items_I is None else plan.items_I
    cold_V = np.append(False, np.isin(items_I, _cold_items(wide)))
    model, _ = load_model(run, "cuda" if torch.cuda.is_available() else "cpu")
    scorer = ModelScorer(model, RunFolder.open(run).record().median_gap_s, config.data.target_time)
    return measure(scorer, config, data, plan, cold_V)


def _cold_items(wide: Plan) -> npt.NDArray[np.int32]:
    """Return the folder's items that never train."""
    assert wide.items_I is not None
    return wide.items_I[wide.trained :]


def compared(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the rows say together."""
    own, plain = rows["features"], rows["none"]
    before, after = plain["gains_by_user"], own["gains_by_user"]
    difference_U = np.array([after[user] - before[user] for user in sorted(before)])
    low, high = bootstrap_mean(difference_U, 0)
    genre = [row for name, row in rows.items() if name.startswith("popularity")]
    best = max(row["cold_hits10"] for row in genre)
    among = max(row["cold_hr10_among_cold"] for row in genre)
    return {
        # A rival without a hit counts as one with one: the ratio is at least this.
        "ratio": own["cold_hits10"] / max(best, 1),
        "ratio_among_cold": own["cold_hr10_among_cold"] / among,
        "warm_ndcg_difference": float(difference_U.mean()),
        "warm_ndcg_interval": (low, high),
    }


def main() -> int:
    """Prepare, train twice, rank, print and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--ml-1m", type=Path, default=Path("data/ml-1m.zip"), help="not read if WORK/data is there"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of each training")
    parser.add_argument("--users", type=int, help="take so many, on a small machine; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of both trainings")
    parser.add_argument("--work", type=Path, default=Path("runs/cold"), help="folder of data and runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    from ss4rec.cli.options import assigned

    name = "data" if options.users is None else f"data-{options.users}"
    data = prepare_cold(options.ml_1m, options.work.absolute() / name, options.users)
    changes = assigned(options.set) | {"train.seed": options.seed}
    rows: dict[str, dict[str, Any]] = {}
    for name, features in (("features", list(FEATURES)), ("none", "none")):
        run = options.work.absolute() / f"{data.path.name}-{name}-{options.minutes:g}-{options.seed}"
        config = train(data, run, options.minutes, changes | {"model.item_features": features})
        if name == "features":
            wide = plan_of_run(config, data)
            cold_V = np.arange(wide.num_items + 1) > wide.trained
            for rival, scorer in rivals(data, wide).items():
                rows[rival] = measure(scorer, config, data, wide, cold_V)
        rows[name] = model_row(run, config, data, wide)
    return _report(rows, compared(rows), options.out)


def _report(rows: dict[str, dict[str, Any]], found: dict[str, Any], out: Path) -> int:
    for name, row in rows.items():
        del row["gains_by_user"]
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    low, high = found["warm_ndcg_interval"]
    print(
        f"cold HR@10: {found['ratio']:.2f} times the best popularity by genre ({found['ratio_among_cold']:.2f} among "
        f"cold films); warm NDCG@10: {found['warm_ndcg_difference']:+.4f} ({low:+.4f} to {high:+.4f})"
    )
    figures = [
        headline("cold.hr10_ratio_to_genre_popularity", found["ratio"], "times", 3.0, "best of three kinds"),
        headline(
            "cold.warm_ndcg_difference",
            found["warm_ndcg_difference"],
            "NDCG@10",
            0.0,
            "the same run, no features",
        ),
    ]
    print(write_record("cold", [{"what": name, **row} for name, row in rows.items()] + [found], figures, out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
