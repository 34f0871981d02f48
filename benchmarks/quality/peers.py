"""Peers of the quality benchmark on our split, protocol and metrics: most popular, a Markov chain, and rectools' models.

SASRec and HSTU come from rectools (Apache-2.0; `pip install rectools pytorch-lightning`), with the full softmax. They
train on all but each user's last two events, as ours; after every few epochs our own code ranks the validation items
with their scores, and the best weights are ranked on the test items, once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from benchmarks.quality.rows import Row
from benchmarks.quality.table import save_ranks
from ss4rec.cli.options import assigned
from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import Split, ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.evaluator import rank_column, rank_users, summarise
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.metrics import hit_rate, ndcg
from ss4rec.evaluation.popularity import HELD_OUT_EVENTS, MostPopular, TrainingEvents
from ss4rec.evaluation.scorers import Scorer
from ss4rec.model.item_scores import ItemScores

KS = (5, 10, 20)
SESSION_LEN = 200
SHARED: dict[str, Any] = {
    "session_max_len": SESSION_LEN,
    "epochs": 200,
    "batch_size": 128,
    "lr": 1e-3,
    "loss": "softmax",
}
"""Length, rate and batch as in the published runs of these models; the rest is what each row says."""


def run_peer(row: Row, data: Path, run: Path, seed: int, minutes: float, ranks_test: bool) -> dict[str, Any]:
    """Train or count the peer that a row names (`model=NAME OPTION=VALUE ...`), and rank the test items."""
    run.mkdir(parents=True, exist_ok=True)
    options = assigned(row.changes)
    name = options.pop("model")
    manifest = Manifest.load(data)
    paths = PreparedFolder.open(data).shard_paths
    fields: dict[str, Any] = {"config": {"model": name, **SHARED, **options}}
    scorer: Scorer
    if name == "most_popular":
        scorer = MostPopular(TrainingEvents.read(paths, manifest.items).counts())
    elif name == "markov_chain":
        scorer = MarkovChain.count(paths, manifest.items)
    else:
        scorer, found = train_rectools(name, options, data, seed, minutes)
        fields |= found
    if ranks_test:
        ranks = rank_users(scorer, _batches(data, "test"))
        save_ranks(run, ranks)
        fields["test"] = summarise(ranks, KS).model_dump(mode="json")
    return fields


class RecToolsScorer:
    """Scores of a rectools transformer.

    Args:
        torch_model: its backbone.
        items_N: our index of each of its items; 0 for its padding.
        num_items: items I of our vocabulary.
        reads_time: whether its attention reads times, the target's included.
        unknown_gap_s: stands in for the gap to the target where its time is not known.
    """

    def __init__(
        self,
        torch_model: Any,
        items_N: npt.NDArray[np.int64],
        num_items: int,
        reads_time: bool,
        unknown_gap_s: float,
    ) -> None:
        self.torch_model, self.num_items = torch_model, num_items
        self.uses_target_time, self.unknown_gap_s = reads_time, unknown_gap_s
        self.items_N = torch.from_numpy(items_N)
        self.index_V = torch.zeros(num_items + 1, dtype=torch.int64)
        self.index_V[self.items_N] = torch.arange(len(items_N))
        self.index_V[0] = 0

    @torch.inference_mode()
    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores; items that it never saw in training come last."""
        model, device = self.torch_model.eval(), next(self.torch_model.parameters()).device
        inputs = {name: value.to(device) for name, value in self._inputs(batch, target_time_known).items()}
        items_NF = model.item_model.get_all_embeddings()
        hidden_BF = model.encode_sessions(inputs, items_NF)[:, -1]
        scores_BN = model.similarity_module(hidden_BF[:, None], items_NF, None)[:, 0].float()
        scores_BV = torch.full((len(hidden_BF), self.num_items + 1), -torch.inf, device=device)
        scores_BV[:, self.items_N.to(device)] = scores_BN
        return ItemScores.of_matrix(scores_BV, batch.seen_X, batch.seen_offsets_S1)

    def _inputs(self, batch: EvalBatch, target_time_known: bool) -> dict[str, Tensor]:
        """Return items padded at their left, and times with the target's behind them, as rectools collates them."""
        lengths_B = batch.offsets_S1.diff()
        row_T = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
        place_T = torch.arange(len(row_T)) - batch.offsets_S1[1:][row_T] + SESSION_LEN
        items_BL = torch.zeros(len(lengths_B), SESSION_LEN, dtype=torch.int64)
        items_BL[row_T, place_T] = self.index_V[batch.items_T]
        if not self.uses_target_time:
            return {"x": items_BL}
        # Gaps are to the next event: going back from the target's time gives all others.
        gaps_BL = torch.zeros(len(lengths_B), SESSION_LEN, dtype=torch.int64)
        gaps_BL[row_T, place_T] = batch.gaps_T.double().round().long()
        moment_B = batch.target_times_S
        if not target_time_known:
            gaps_BL[:, -1] = round(self.unknown_gap_s)
            moment_B = batch.last_times_S + round(self.unknown_gap_s)
        later_BL = gaps_BL.flip(1).cumsum(1).flip(1)
        return {"x": items_BL, "unix_ts": torch.cat([moment_B[:, None] - later_BL, moment_B[:, None]], dim=1)}


def train_rectools(
    name: str, options: dict[str, Any], data: Path, seed: int, minutes: float
) -> tuple[RecToolsScorer, dict[str, Any]]:
    """Train SASRec or HSTU until validation stops rising or the time is over; return its best weights as a scorer."""
    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools.dataset import Dataset, IdMap
    from rectools.models import HSTUModel, SASRecModel

    IdMap.from_values = staticmethod(lambda values: IdMap(unique_ids(values)))
    seed_everything(seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    every, patience = int(options.pop("validate_every", 3)), int(options.pop("patience", 8))
    manifest, began = Manifest.load(data), time.monotonic()
    curve: list[list[float]] = []
    best: dict[str, Any] = {"score": -1.0, "epoch": 0, "weights": {}}
    valid = list(_batches(data, "valid"))

    class Watch(Callback):
        """Ranks the validation items with our code and keeps the best weights."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch = trainer.current_epoch + 1
            if epoch % every and epoch < trainer.max_epochs:
                return
            scorer = scorer_of(pl_module)
            ranks = rank_users(scorer, valid)
            kept_U, unseen_U = (ranks[rank_column(seen, "known")].to_numpy() for seen in ("kept", "excluded"))
            elapsed = time.monotonic() - began
            loss = float(trainer.callback_metrics.get("train_loss", np.nan))
            curve.append(
                [epoch, round(elapsed, 1), loss, ndcg(kept_U, 10), ndcg(unseen_U, 10), hit_rate(unseen_U, 10)]
            )
            print(curve[-1], flush=True)
            if curve[-1][3] > best["score"]:
                weights = {k: v.detach().cpu().clone() for k, v in pl_module.torch_model.state_dict().items()}
                best.update(score=curve[-1][3], epoch=epoch, weights=weights)
            waited = (epoch - best["epoch"]) // every
            trainer.should_stop = waited >= patience or elapsed > 60 * minutes
            pl_module.torch_model.train()

    def trainer() -> Any:
        return Trainer(
            max_epochs=int(SHARED["epochs"]),
            callbacks=[Watch()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
        )

    def scorer_of(module: Any) -> RecToolsScorer:
        ids = module.data_preparator.item_id_map.get_external_sorted_by_internal()
        items_N = np.array([0 if isinstance(item, str) else int(item) for item in ids], dtype=np.int64)
        reads_time = name == "hstu" and bool(options.get("relative_time_attention", True))
        return RecToolsScorer(module.torch_model, items_N, manifest.items, reads_time, manifest.median_gap_s)

    make = {"sasrec": SASRecModel, "hstu": HSTUModel}[name]
    model = make(**(SHARED | options), get_trainer_func=trainer)
    model.fit(Dataset.construct(_training_frame(data, manifest)))
    module = model.lightning_model
    module.torch_model.load_state_dict(best["weights"])
    if torch.cuda.is_available():
        module.torch_model.cuda()
    outcome = {
        "epochs": int(curve[-1][0]),
        "best_epoch": best["epoch"],
        "best_score": best["score"],
        "elapsed_s": round(time.monotonic() - began, 1),
    }
    parameters = sum(parameter.numel() for parameter in module.torch_model.parameters())
    return scorer_of(module), {"outcome": outcome, "curve": curve, "parameters": parameters}


def unique_ids(values: npt.ArrayLike) -> npt.NDArray:
    """Return the different ids in the order of their first place; rectools 0.19 has tuples, which pandas 3 refuses."""
    held = values if isinstance(values, np.ndarray | pd.Series) else np.asarray(values, dtype=object)
    return np.asarray(pd.unique(held))


def _training_frame(data: Path, manifest: Manifest) -> pd.DataFrame:
    """Return the training events (all but each user's last two) as rectools takes them, in the order of the shards."""
    parts = []
    for path in PreparedFolder.open(data).shard_paths:
        shard = read_shard(path, manifest.items)
        items_E, offsets_U1 = ragged(shard["items"])
        times_E, _ = ragged(shard["timestamps"])
        counts_U = np.diff(offsets_U1)
        kept_E = np.arange(len(items_E)) < np.repeat(offsets_U1[1:], counts_U) - HELD_OUT_EVENTS
        users_E = np.repeat(shard["user"].to_numpy(), counts_U)
        parts.append(
            pd.DataFrame(
                {
                    "user_id": users_E[kept_E],
                    "item_id": items_E[kept_E],
                    "weight": 1.0,
                    "datetime": pd.to_datetime(times_E[kept_E], unit="s"),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _batches(data: Path, split: Split) -> Iterator[EvalBatch]:
    """Yield every user's history before the held-out item, its last events, and gaps to the event after each."""
    config = DataConfig(max_len=SESSION_LEN, overlap=0, target_time=True)
    yield from LocalSource(data, config, batch_size=128, seed=0).eval_batches(split, 512)
