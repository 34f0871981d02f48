"""Which epoch of a peer is the best: validation by our own code, and when to end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmarks.quality.batches import peer_batches
from ss4rec.evaluation.evaluator import rank_column, rank_users
from ss4rec.evaluation.metrics import hit_rate, ndcg
from ss4rec.evaluation.scorers import Scorer
from ss4rec.protocol.plan import Plan


class BestEpoch:
    """Ranks the validation items with our code every few epochs and keeps the best weights.

    Args:
        data: prepared folder.
        plan: what chooses; the clock starts here.
        session_len: events of a history that the peer sees.
        minutes: after which training ends.
        every: epochs from one validation to the next.
        patience: validations without a better one after which training ends.
    """

    def __init__(
        self, data: Path, plan: Plan, session_len: int, minutes: float, *, every: int = 3, patience: int = 8
    ) -> None:
        self.protocol, self.minutes, self.every, self.patience = plan.protocol, minutes, every, patience
        self.batches = list(peer_batches(data, "valid", plan, session_len))
        self.began = time.monotonic()
        self.curve: list[list[float]] = []
        self.score, self.epoch, self.weights = -1.0, 0, dict[str, Tensor]()

    def look(self, epoch: int, scorer: Scorer, module: nn.Module, loss: float, last: bool = False) -> bool:
        """Validate after this epoch if it is time to; return whether training should end.

        Args:
            epoch: epochs done.
            scorer: the peer as it is now.
            module: whose weights are kept.
            loss: training loss of the epoch.
            last: whether no other epoch follows.
        """
        if epoch % self.every and not last:
            return False
        ranks = rank_users(scorer, self.batches)
        told = self.protocol.target_time
        own_N, unseen_N = (
            ranks[rank_column(seen, told)].to_numpy() for seen in (self.protocol.seen, "excluded")
        )
        elapsed, score = time.monotonic() - self.began, ndcg(own_N, 10)
        self.curve.append([epoch, round(elapsed, 1), loss, score, ndcg(unseen_N, 10), hit_rate(unseen_N, 10)])
        print(np.round(self.curve[-1], 4).tolist(), flush=True)
        if score > self.score:
            self.score, self.epoch = score, epoch
            self.weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        return (epoch - self.epoch) // self.every >= self.patience or elapsed > 60 * self.minutes

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Return what came of the training, its curve, and the size of the model."""
        outcome = {
            "epochs": int(self.curve[-1][0]),
            "best_epoch": self.epoch,
            "best_score": self.score,
            "elapsed_s": round(time.monotonic() - self.began, 1),
        }
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return {"outcome": outcome, "curve": self.curve, "parameters": parameters}
