"""Model and loss as one module, so that data parallelism and compilation see the whole computation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ss4rec.config import LossConfig
from ss4rec.model.losses import Repeats, bpr, cross_entropy
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec


class Objective(nn.Module):
    """Sum of the training loss over the targets of a packed batch."""

    def __init__(self, model: SS4Rec, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, items_T: Tensor, gaps_T: Tensor, targets_T: Tensor, segments: Segments) -> Tensor:
        """Return the summed loss as a float32 scalar; targets of 0 are context and do not count."""
        logit = self.model.repeat_logit
        repeats = None
        if logit is not None:
            repeats = Repeats(items_T, segments.positions_T, segments.max_len, logit)
        if self.training:
            items_T = self._swap(items_T, self.config.swap_inputs)
            targets_T = self._swap(targets_T, self.config.swap_targets)
        hidden_TD = self.model.encode(items_T, gaps_T, segments)
        weight_VD = self.model.item_matrix()
        if self.config.kind == "bpr":
            return bpr(hidden_TD, weight_VD, targets_T, negatives=self.config.negatives)[0]
        return cross_entropy(
            hidden_TD,
            weight_VD,
            targets_T,
            chunk_tokens=self.config.chunk_tokens,
            label_smoothing=self.config.label_smoothing,
            repeats=repeats,
        )[0]

    def _swap(self, items_T: Tensor, probability: float) -> Tensor:
        """Replace items by random ones with a probability; 0 (no target) stays."""
        if probability == 0.0:
            return items_T
        random_T = torch.randint_like(items_T, 1, self.model.num_items + 1)
        swapped_T = torch.rand(items_T.shape, device=items_T.device) < probability
        return torch.where(swapped_T & (items_T > 0), random_T, items_T)
