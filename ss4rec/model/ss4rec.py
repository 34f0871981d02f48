"""SS4Rec (arXiv 2502.08132): a hybrid state-space recommender, written from the paper's equations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import resolve_relation_backend, resolve_time_backend
from ss4rec.model.block import SSBlock
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.model.segments import Segments


class SS4Rec(nn.Module):
    """Item embeddings, SS-blocks, and scores by the product with the same embeddings.

    One pass over a sequence gives the hidden state after every event; a later event never changes an earlier one.
    Scans choose their implementation by the device of the parameters at the time of the call.

    Args:
        config: the shape.
        num_items: items are 1..num_items; row 0 of the embedding is padding, always zero, and never scored.
    """

    def __init__(self, config: ModelConfig, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.num_items = num_items
        self.embedding = nn.Embedding(num_items + 1, config.dim, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.normal_(std=config.init_std)
            self.embedding.weight[0] = 0
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(SSBlock(config) for _ in range(config.blocks))
        self.repeat_parameter = nn.Parameter(torch.zeros(())) if config.repeats == "learned" else None
        pre = config.norm == "pre"
        self.final_norm = nn.LayerNorm(config.dim, eps=config.norm_eps) if pre else None

    @property
    def backends(self) -> dict[str, str]:
        """Names of the implementations that run on the model's present device.

        Raises:
            BackendError: if one that the configuration names cannot run there.
        """
        device = self.embedding.weight.device
        return {
            "time": resolve_time_backend(self.config.time_backend, device).name,
            "relation": resolve_relation_backend(self.config.relation_backend, device).name,
        }

    def encode(self, items_T: Tensor, gaps_T: Tensor, segments: Segments) -> Tensor:
        """Return the hidden state after every event, `[T, D]`; its products with `item_matrix` are the logits.

        Args:
            items_T: item indices, packed.
            gaps_T: seconds of each event; which gap that is, the data decides (`DataConfig.target_time`).
            segments: where sequences start.
        """
        device = self.embedding.weight.device
        time_backend = resolve_time_backend(self.config.time_backend, device)
        relation_backend = resolve_relation_backend(self.config.relation_backend, device)
        values_TD = self.embedding_dropout(self.embedding(items_T))
        for block in self.blocks:
            values_TD = block(values_TD, gaps_T, segments, time_backend, relation_backend)
        if self.final_norm is not None:
            values_TD = self.final_norm(values_TD)
        if self.config.cosine_temperature:
            values_TD = F.normalize(values_TD.float(), dim=1) / self.config.cosine_temperature
        return values_TD

    forward = encode

    def item_matrix(self) -> Tensor:
        """Return the rows that hidden states are compared with, `[V, D]`: unit vectors if scores are cosines."""
        weight_VD = self.embedding.weight
        return F.normalize(weight_VD, dim=1) if self.config.cosine_temperature else weight_VD

    @property
    def repeat_logit(self) -> Tensor | None:
        """What is added to the score of an item that the history holds; None if repeats are ignored.

        Ten times its parameter, since one step of Adam moves every parameter by about the learning rate.
        """
        return None if self.repeat_parameter is None else 10.0 * self.repeat_parameter

    def scores(self, hidden_BD: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor) -> ItemScores:
        """Return the scores of all items, computed in stretches of items as they are asked for.

        Args:
            hidden_BD: state after the last event of each history.
            seen_X: items of each whole history, one history after the other; any order, repeats allowed.
            seen_offsets_B1: where each history begins and ends in `seen_X`, on the host.
        """
        weight_VD = self.item_matrix()
        seen = SeenItems(seen_X, seen_offsets_B1, len(weight_VD), hidden_BD.device)
        return ItemScores.of_products(hidden_BD, weight_VD, seen, self.repeat_logit)
