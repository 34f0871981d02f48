"""Peers of the quality benchmark on our split, protocol and metrics: most popular, a Markov chain, and rectools' models.

SASRec, HSTU and BERT4Rec come from rectools (Apache-2.0; `pip install rectools pytorch-lightning`), with the full softmax. They
train on what ours train on; after every few epochs our own code ranks the validation items with their scores, and the
best weights are ranked on the test items, once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from benchmarks.quality.batches import peer_batches, training_events
from benchmarks.quality.best_epoch import BestEpoch
from benchmarks.quality.rows import Row
from benchmarks.quality.table import save_ranks
from ss4rec.cli.options import assigned
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.popularity import MostPopular, TrainingEvents
from ss4rec.evaluation.scorers import Scorer
from ss4rec.evaluation.states import prefixes
from ss4rec.model.item_scores import ItemScores
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol

KS = (5, 10, 20)
SHARED: dict[str, Any] = {
    "session_max_len": 200,
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
        ranks = rank_users(scorer, peer_batches(data, "test", make_plan(Protocol(), data)))
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
        session_len: places of its input.
        mask: its own index of the item that asks for a prediction (BERT4Rec); None: the last event asks (causal).
    """

    def __init__(
        self,
        torch_model: Any,
        items_N: npt.NDArray[np.int64],
        num_items: int,
        reads_time: bool,
        unknown_gap_s: float,
        session_len: int = 200,
        mask: int | None = None,
    ) -> None:
        self.session_len, self.mask = session_len, mask
        self.torch_model, self.num_items = torch_model, num_items
        self.uses_target_time, self.unknown_gap_s = reads_time, unknown_gap_s
        self.items_N = torch.from_numpy(items_N)
        self.index_V = torch.zeros(num_items + 1, dtype=torch.int64)
        self.index_V[self.items_N] = torch.arange(len(items_N))
        self.index_V[0] = 0

    @torch.inference_mode()
    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores; items that it never saw in training come last."""
        device = next(self.torch_model.parameters()).device
        parts = prefixes(batch, 512 * self.session_len) if batch.shares_histories else [batch]
        scores_BN = torch.cat([self._scores(part, target_time_known, device) for part in parts])
        scores_BV = torch.full((len(scores_BN), self.num_items + 1), -torch.inf, device=device)
        scores_BV[:, self.items_N.to(device)] = scores_BN
        return ItemScores.of_matrix(scores_BV, batch.seen_X, batch.seen_offsets_S1)

    def _scores(self, batch: EvalBatch, target_time_known: bool, device: torch.device) -> Tensor:
        """Return the scores of its own items, targets with a history each."""
        model = self.torch_model.eval()
        inputs = {name: value.to(device) for name, value in self._inputs(batch, target_time_known).items()}
        items_NF = model.item_model.get_all_embeddings()
        hidden_BF = model.encode_sessions(inputs, items_NF)[:, -1]
        return model.similarity_module(hidden_BF[:, None], items_NF, None)[:, 0].float()

    def _inputs(self, batch: EvalBatch, target_time_known: bool) -> dict[str, Tensor]:
        """Return items padded at their left, and times with the target's behind them, as rectools collates them."""
        lengths_B = batch.offsets_S1.diff()
        row_T = torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)
        place_T = torch.arange(len(row_T)) - batch.offsets_S1[1:][row_T] + self.session_len
        items_BL = torch.zeros(len(lengths_B), self.session_len, dtype=torch.int64)
        asks = int(self.mask is not None)  # the last place asks, one is left less for the history
        fits_T = place_T >= asks
        items_BL[row_T[fits_T], place_T[fits_T] - asks] = self.index_V[batch.items_T][fits_T]
        if self.mask is not None:
            items_BL[:, -1] = self.mask
        if not self.uses_target_time:
            return {"x": items_BL}
        # Gaps are to the next event: going back from the target's time gives all others.
        gaps_BL = torch.zeros(len(lengths_B), self.session_len, dtype=torch.int64)
        gaps_BL[row_T, place_T] = batch.gaps_T.double().round().long()
        moment_B = batch.target_times_S
        if not target_time_known:
            gaps_BL[:, -1] = round(self.unknown_gap_s)
            moment_B = batch.last_times_S + round(self.unknown_gap_s)
        later_BL = gaps_BL.flip(1).cumsum(1).flip(1)
        return {"x": items_BL, "unix_ts": torch.cat([moment_B[:, None] - later_BL, moment_B[:, None]], dim=1)}


def train_rectools(
    name: str,
    options: dict[str, Any],
    data: Path,
    seed: int,
    minutes: float,
    protocol: Protocol | None = None,
) -> tuple[RecToolsScorer, dict[str, Any]]:
    """Train a model until validation stops rising or the time is over; return its best weights as a scorer.

    Args:
        name: sasrec, esasrec, hstu or bert4rec.
        options: of rectools' class, beside `SHARED`; `validate_every` epochs and `patience` validations.
        data: prepared folder.
        seed: of everything.
        minutes: after which training ends.
        protocol: what trains and what chooses; None: leave-one-out.
    """
    from pytorch_lightning import seed_everything
    from rectools.dataset import Dataset, IdMap

    IdMap.from_values = staticmethod(lambda values: IdMap(unique_ids(values)))
    seed_everything(seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    plan, settings = make_plan(protocol or Protocol(), data), SHARED | options
    waits = {"every": settings.pop("validate_every", 3), "patience": settings.pop("patience", 8)}
    best = BestEpoch(data, plan, int(settings["session_max_len"]), minutes, **waits)
    reads_time = name == "hstu" and bool(options.get("relative_time_attention", True))

    def scorer_of(module: Any) -> RecToolsScorer:
        """Return the model as it is now."""
        ids = module.data_preparator.item_id_map.get_external_sorted_by_internal()
        items_N = np.array([0 if isinstance(item, str) else int(item) for item in ids], dtype=np.int64)
        mask, places = module.data_preparator.extra_token_ids.get("MASK"), int(settings["session_max_len"])
        return RecToolsScorer(
            module.torch_model, items_N, plan.num_items, reads_time, plan.median_gap_s, places, mask
        )

    model = _rectools_model(name, settings, best, scorer_of)
    model.fit(Dataset.construct(_training_frame(data, plan)))
    module = model.lightning_model
    module.torch_model.load_state_dict(best.weights)
    if torch.cuda.is_available():
        module.torch_model.cuda()
    return scorer_of(module), best.facts(module.torch_model)


def _rectools_model(
    name: str, settings: dict[str, Any], best: BestEpoch, scorer_of: Callable[[Any], Scorer]
) -> Any:
    """Return a model of rectools that validates by `best` after each epoch."""
    from pytorch_lightning import Callback, Trainer
    from rectools.models import BERT4RecModel, HSTUModel, SASRecModel

    class Watch(Callback):
        """Asks `best` after every epoch."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch, loss = trainer.current_epoch + 1, float(trainer.callback_metrics.get("train_loss", np.nan))
            last = epoch >= trainer.max_epochs
            trainer.should_stop = best.look(
                epoch, scorer_of(pl_module), pl_module.torch_model, loss, last=last
            )
            pl_module.torch_model.train()

    def trainer() -> Any:
        return Trainer(
            max_epochs=int(settings["epochs"]),
            callbacks=[Watch()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
        )

    classes = {"sasrec": SASRecModel, "esasrec": SASRecModel, "hstu": HSTUModel, "bert4rec": BERT4RecModel}
    if name == "esasrec":  # LiGR layers, arXiv 2508.06450
        from rectools.models.nn.transformers.ligr import LiGRLayers

        settings = settings | {"transformer_layers_type": LiGRLayers}
    return classes[name](**settings, get_trainer_func=trainer)


def unique_ids(values: npt.ArrayLike) -> npt.NDArray:
    """Return the different ids in the order of their first place; rectools 0.19 has tuples, which pandas 3 refuses."""
    held = values if isinstance(values, np.ndarray | pd.Series) else np.asarray(values, dtype=object)
    return np.asarray(pd.unique(held))


def _training_frame(data: Path, plan: Plan) -> pd.DataFrame:
    """Return the training events as rectools takes them, in the order of the shards."""
    users_E, items_E, times_E = (
        np.concatenate(parts) for parts in zip(*training_events(data, plan), strict=True)
    )
    moments_E = pd.to_datetime(times_E, unit="s")
    return pd.DataFrame({"user_id": users_E, "item_id": items_E, "weight": 1.0, "datetime": moments_E})
