"""GRU4Rec of RecBole (MIT; `pip install recbole==1.2.1`), trained on what ours trains on, with the full softmax.

The model is RecBole's own module. It is trained on every event of a session at once, as the transformers beside it are;
RecBole itself makes a row of each prefix, which is the same loss for many times the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.quality.batches import training_events
from benchmarks.quality.best_epoch import BestEpoch
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.states import prefixes
from ss4rec.model.item_scores import ItemScores
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol

NAMES = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
}
"""Names of columns, which RecBole wants and nothing here reads."""
SHAPE = {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3, "loss_type": "CE"}
"""RecBole's own defaults."""


class GRU4RecScorer:
    """Scores of RecBole's GRU4Rec; its items are ours.

    Args:
        module: the model.
        session_len: events of a history that it sees.
    """

    uses_target_time = False

    def __init__(self, module: Any, session_len: int) -> None:
        self.module, self.session_len = module, session_len

    @torch.inference_mode()
    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores of all items."""
        module = self.module.eval()
        device = next(module.parameters()).device
        parts = prefixes(batch, 512 * self.session_len) if batch.shares_histories else [batch]
        rows = []
        for part in parts:
            items_BL, lengths_B = self.inputs(part)
            asked = {module.ITEM_SEQ: items_BL.to(device), module.ITEM_SEQ_LEN: lengths_B.to(device)}
            rows.append(module.full_sort_predict(asked).float())
        return ItemScores.of_matrix(torch.cat(rows), batch.seen_X, batch.seen_offsets_S1)

    def inputs(self, batch: EvalBatch) -> tuple[Tensor, Tensor]:
        """Return the end of each history, padded at its right `[B, L]`, and its length `[B]`."""
        lengths_B = batch.offsets_S1.diff().clamp(max=self.session_len)
        place_L = torch.arange(self.session_len)
        inside_BL = place_L < lengths_B[:, None]
        token_BL = (batch.offsets_S1[1:] - lengths_B)[:, None] + place_L
        items_T = batch.items_T.cpu().long()
        return torch.where(inside_BL, items_T[token_BL.clamp(max=len(items_T) - 1)], 0), lengths_B


def train_gru4rec(
    options: dict[str, Any], data: Path, seed: int, minutes: float, protocol: Protocol | None = None
) -> tuple[GRU4RecScorer, dict[str, Any]]:
    """Train until validation stops rising or the time is over; return the best weights as a scorer.

    Args:
        options: `session_max_len`, and `SHAPE`, `epochs`, `lr`, `batch_size` where they differ.
        data: prepared folder.
        seed: of everything.
        minutes: after which training ends.
        protocol: what trains and what chooses; None: leave-one-out.
    """
    settings = SHAPE | {"session_max_len": 200, "epochs": 300, "lr": 1e-3, "batch_size": 128} | options
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan, session_len = make_plan(protocol or Protocol(), data), int(settings["session_max_len"])
    module = _module(settings, plan.num_items + 1, device)
    scorer, best = GRU4RecScorer(module, session_len), BestEpoch(data, plan, session_len, minutes)
    sessions_UL = torch.from_numpy(training_sessions(data, plan, session_len + 1)).to(device)
    optimiser = torch.optim.Adam(module.parameters(), lr=float(settings["lr"]))
    for epoch in range(1, int(settings["epochs"]) + 1):
        module.train()
        losses = [
            _step(module, optimiser, part) for part in _shuffled(sessions_UL, int(settings["batch_size"]))
        ]
        loss = float(torch.stack(losses).mean())
        if best.look(epoch, scorer, module, loss, last=epoch == settings["epochs"]):
            break
    module.load_state_dict(best.weights)
    return scorer, best.facts(module)


def training_sessions(data: Path, plan: Plan, length: int) -> np.ndarray:
    """Return the last `length` training events of each user who has two, padded at the right, `[U, length]`."""
    rows = []
    for users_E, items_E, _ in training_events(data, plan):
        ends = np.append(np.flatnonzero(np.diff(users_E)) + 1, len(users_E))
        for first, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            if end - first >= 2:
                own = items_E[max(first, end - length) : end]
                rows.append(np.pad(own, (0, length - len(own))))
    return np.stack(rows).astype(np.int64)


def _module(settings: dict[str, Any], items: int, device: torch.device) -> Any:
    """Return RecBole's module for this many items, padding included."""
    if not hasattr(np, "float"):
        np.float = float  # RecBole 1.2.1 still uses this name
    from recbole.model.sequential_recommender.gru4rec import GRU4Rec

    config = NAMES | settings | {"MAX_ITEM_LIST_LENGTH": settings["session_max_len"], "device": device}
    return GRU4Rec(config, SimpleNamespace(num=lambda name: items)).to(device)


def _shuffled(sessions_UL: Tensor, size: int) -> Iterator[Tensor]:
    order_U = torch.randperm(len(sessions_UL), device=sessions_UL.device)
    for rows in order_U.split(size):
        yield sessions_UL[rows]


def _step(module: Any, optimiser: torch.optim.Optimizer, items_BL: Tensor) -> Tensor:
    """Predict each event of some sessions from those before it; return the loss."""
    states_BLD, _ = module.gru_layers(module.emb_dropout(module.item_embedding(items_BL[:, :-1])))
    targets_BL = items_BL[:, 1:]
    logits_NV = module.dense(states_BLD)[targets_BL > 0] @ module.item_embedding.weight.T
    loss = nn.functional.cross_entropy(logits_NV, targets_BL[targets_BL > 0])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()
