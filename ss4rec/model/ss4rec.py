"""SS4Rec (arXiv 2502.08132): a hybrid state-space recommender, written from the paper's equations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.errors import UsageError
from ss4rec.kernels import (
    LayerBackend,
    RelationBackend,
    TimeBackend,
    resolve_layer_backend,
    resolve_relation_backend,
    resolve_time_backend,
)
from ss4rec.model.block import Horizon, SSBlock
from ss4rec.model.columns import DataColumns
from ss4rec.model.habits import Asked, Habits, seen_logits
from ss4rec.model.inputs import Context, EventInputs, ItemAttributes
from ss4rec.model.item_features import ItemCodes, ItemFeatures
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.model.segments import Segments


class SequenceModel(nn.Module, ABC):
    """What training, ranking and serving need of a model.

    Args:
        config: the shape.
        num_items: items are 1..num_items; 0 is padding and never scored.
        columns: what else the data have that the model reads.
    """

    def __init__(self, config: ModelConfig, num_items: int, columns: DataColumns | None = None) -> None:
        super().__init__()
        self.config = config
        self.num_items = num_items
        self.columns = columns or DataColumns()

    @property
    @abstractmethod
    def members(self) -> Sequence[SS4Rec]:
        """The single models, each of which is trained for itself."""

    @abstractmethod
    def encode(
        self, items_T: Tensor, gaps_T: Tensor, segments: Segments, context: Context | None = None
    ) -> Tensor:
        """Return the hidden state after every event; its products with `item_matrix` are the logits.

        Args:
            items_T: item indices, packed.
            gaps_T: seconds of each event; which gap that is, the data decides (`DataConfig.target_time`).
            segments: where sequences start.
            context: what else is known of each event; may be left out if `ModelConfig.inputs` is empty.
        """

    @abstractmethod
    def item_matrix(self) -> Tensor:
        """Return the rows that hidden states are compared with, one for each item and one for padding."""

    @property
    @abstractmethod
    def repeat_logit(self) -> Tensor | None:
        """What is added to the score of an item that the history holds; None if repeats are ignored."""

    @property
    def num_trained(self) -> int:
        """Items with training events: 1 to this number; the others are known by their features alone."""
        features = self.members[0].features
        return self.num_items if features is None else features.num_trained

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def backends(self) -> dict[str, str]:
        """Names of the implementations that run on the model's present device.

        Raises:
            BackendError: if one that the configuration names cannot run there.
        """
        return {
            "time": resolve_time_backend(self.config.time_backend, self.device).name,
            "relation": resolve_relation_backend(self.config.relation_backend, self.device).name,
            "layer": self._layer_backend_name(),
        }

    def _layer_backend_name(self) -> str:
        """Name what surrounds layers; norms before layers are torch's own, whatever the gate runs on."""
        name = resolve_layer_backend(self.config.layer_backend, self.device).name
        if self.config.norm == "pre" and name != "reference":
            return f"{name} (norms: reference)" if self.config.feed_forward else "reference"
        return name

    def set_item_attributes(self, attributes_VA: Tensor) -> None:
        """Say which attributes (`ItemAttributes`) each item has; checkpoints keep it."""
        for member in self.members:
            if member.attributes is not None:
                member.attributes.attributes_VA.copy_(attributes_VA)

    def set_item_features(self, codes: ItemCodes, trained: int) -> None:
        """Say which features each item has, and that items 1 to `trained` have training events; checkpoints keep it."""
        for member in self.members:
            if member.features is not None:
                member.features.fill(codes, trained)

    def scores(
        self, hidden_BD: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor, asked: Asked | None = None
    ) -> ItemScores:
        """Return the scores of all items, computed in stretches of items as they are asked for.

        Args:
            hidden_BD: state after the last event of each history.
            seen_X: items of each whole history, one history after the other; any order, repeats allowed.
            seen_offsets_B1: where each history begins and ends in `seen_X`, on the host.
            asked: what `encode` was given, and after which events; needed where the model has `habits`.

        Raises:
            UsageError: if the model has `habits` and is not told.
        """
        weight_VD = self.item_matrix()
        seen = SeenItems(seen_X, seen_offsets_B1, len(weight_VD), hidden_BD.device)
        logit = self.repeat_logit
        if self.config.repeats == "habits":
            if asked is None:
                raise UsageError("model.repeats=habits scores by what was held when; pass the events")
            logit = seen_logits(self._habits(hidden_BD), asked, seen, 1 / len(self.members))
        return ItemScores.of_products(hidden_BD, weight_VD, seen, logit)

    def _habits(self, hidden_BD: Tensor) -> list[tuple[Habits, Tensor]]:
        """Return each member's habits and hidden states."""
        parts = hidden_BD.chunk(len(self.members), dim=1)
        pairs = zip(self.members, parts, strict=True)
        return [(member.habits, part_BD) for member, part_BD in pairs if member.habits is not None]


class SS4Rec(SequenceModel):
    """Item embeddings, SS-blocks, and scores by the product with the same embeddings.

    One pass over a sequence gives the hidden state after every event; a later event never changes an earlier one.
    Scans choose their implementation by the device of the parameters at the time of the call.

    Args:
        config: the shape; `members` is not looked at.
        num_items: items are 1..num_items; row 0 of the embedding is padding, always zero, and never scored.
        target_time: whether the gap of an event is the time to the next one (`DataConfig.target_time`).
        columns: what else the data have that the model reads.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_items: int,
        target_time: bool = True,
        columns: DataColumns | None = None,
    ) -> None:
        super().__init__(config, num_items, columns)
        self.embedding = nn.Embedding(num_items + 1, config.dim, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.normal_(std=config.init_std)
            self.embedding.weight[0] = 0
        self.attributes = ItemAttributes(config.dim, num_items) if config.item_attributes else None
        own = self.columns.items
        self.features = None if own is None else ItemFeatures(config.dim, num_items, own, config.init_std)
        self._table: tuple[tuple[int, ...], Tensor] | None = None
        inputs = EventInputs(config, self.columns)
        self.inputs = inputs if inputs.names else None
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(SSBlock(config) for _ in range(config.blocks))
        self.habits = Habits(config.dim, num_items, target_time) if config.repeats == "habits" else None
        self.repeat_parameter = nn.Parameter(torch.zeros(())) if config.repeats == "learned" else None
        self.horizon = Horizon(config) if config.horizon else None
        pre = config.norm == "pre"
        self.final_norm = nn.LayerNorm(config.dim, eps=config.norm_eps) if pre else None

    @property
    def members(self) -> Sequence[SS4Rec]:
        """This model alone."""
        return (self,)

    def encode(
        self,
        items_T: Tensor,
        gaps_T: Tensor,
        segments: Segments,
        context: Context | None = None,
        table_VD: Tensor | None = None,
        rows_TD: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states `[T, D]`; arguments as in `SequenceModel.encode` and `event_input`."""
        values_TD = self.event_input(items_T, gaps_T, context, table_VD, rows_TD)
        kernels = self.kernels
        for block in self.blocks:
            values_TD = block(values_TD, gaps_T, segments, *kernels)
        return self.read_out(values_TD, None if context is None else context.elapsed_T)

    @property
    def kernels(self) -> tuple[TimeBackend, RelationBackend, LayerBackend]:
        """The implementations that run on the model's present device."""
        return (
            resolve_time_backend(self.config.time_backend, self.device),
            resolve_relation_backend(self.config.relation_backend, self.device),
            resolve_layer_backend(self.config.layer_backend, self.device),
        )

    def event_input(
        self,
        items_T: Tensor,
        gaps_T: Tensor,
        context: Context | None,
        table_VD: Tensor | None = None,
        rows_TD: Tensor | None = None,
    ) -> Tensor:
        """Return what enters the blocks for each event, `[T, D]`; arguments as in `encode`.

        Args:
            table_VD: what `item_table` returned, if the caller has it.
            rows_TD: the row of each event's item, if the caller has looked them up.
        """
        if rows_TD is not None:
            values_TD = rows_TD
        elif self.features is not None:
            values_TD = F.embedding(
                items_T, self.item_table() if table_VD is None else table_VD, padding_idx=0
            )
        else:
            values_TD = self.embedding(items_T)
        if self.attributes is not None:
            values_TD = values_TD + self.attributes.of_items(items_T)
        if self.inputs is not None:
            values_TD = values_TD + self.inputs(gaps_T, context)
        dropped_TD: Tensor = self.embedding_dropout(values_TD)
        return dropped_TD

    def read_out(self, values_TD: Tensor, elapsed_T: Tensor | None) -> Tensor:
        """Return the hidden states `[T, D]` for what leaves the blocks; `elapsed_T` is `Context.elapsed_T`."""
        if self.final_norm is not None:
            values_TD = self.final_norm(values_TD)
        if self.horizon is not None:
            values_TD = self.horizon(values_TD, elapsed_T, self.kernels[2])
        if self.config.cosine_temperature:
            values_TD = F.normalize(values_TD.float(), dim=1) / self.config.cosine_temperature
        return values_TD

    forward = encode

    def item_table(self) -> Tensor:
        """Return the items' rows without attributes, `[V, D]`: learned ones, and what their features say.

        In training every call leaves other learned rows out, so a step takes one table for input and candidates. Where
        nothing is learned it is computed once, until weights change.
        """
        if self.features is None:
            return self.embedding.weight
        if self.training or torch.is_grad_enabled():
            kept_V1 = self.features.kept(self.config.id_dropout if self.training else 0.0)
            table_VD: Tensor = self.embedding.weight * kept_V1 + self.features()
            return table_VD
        # A replayed CUDA graph counts no version, but between two replays and a look the mode changes (`train`).
        now = tuple(p._version for p in (self.embedding.weight, *self.features.parameters()))
        if self._table is None or self._table[0] != now or self._table[1].device != self.device:
            self._table = now, self.embedding.weight * self.features.kept(0.0) + self.features()
        return self._table[1]

    def train(self, mode: bool = True) -> SS4Rec:
        """Change the mode; a kept table is forgotten."""
        self._table = None
        return super().train(mode)

    def item_matrix(self, table_VD: Tensor | None = None) -> Tensor:
        """Return `[V, D]`: unit vectors if scores are cosines; `table_VD` is from `item_table`."""
        weight_VD = self.item_table() if table_VD is None else table_VD
        if self.attributes is not None:
            weight_VD = weight_VD + self.attributes()
        return self.candidate_rows(weight_VD)

    def candidate_rows(self, rows_XD: Tensor) -> Tensor:
        """Return what hidden states are compared with for these rows: unit vectors if scores are cosines."""
        return F.normalize(rows_XD, dim=1) if self.config.cosine_temperature else rows_XD

    @property
    def repeat_logit(self) -> Tensor | None:
        """See `SequenceModel.repeat_logit`.

        Ten times its parameter, since one step of Adam moves every parameter by about the learning rate.
        """
        return None if self.repeat_parameter is None else 10.0 * self.repeat_parameter


class Ensemble(SequenceModel):
    """`ModelConfig.members` models that share nothing but the batch; the mean of their logits is the logit.

    The mean is taken by one product of wider matrices, so everything that works with hidden states and item rows works
    with an ensemble too. It is the geometric mean of the members' softmax, up to a factor for each user.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_items: int,
        target_time: bool = True,
        columns: DataColumns | None = None,
    ) -> None:
        super().__init__(config, num_items, columns)
        self.parts = nn.ModuleList(
            SS4Rec(config, num_items, target_time, columns) for _ in range(config.members)
        )

    @property
    def members(self) -> Sequence[SS4Rec]:
        """The members."""
        return tuple(self.parts)  # type: ignore[arg-type]  # ModuleList forgets the type

    def encode(
        self, items_T: Tensor, gaps_T: Tensor, segments: Segments, context: Context | None = None
    ) -> Tensor:
        """Return the members' hidden states beside one another, `[T, M D]`, each divided by their number."""
        states = [member.encode(items_T, gaps_T, segments, context) for member in self.members]
        return torch.cat(states, dim=1) / len(states)

    forward = encode

    def item_matrix(self) -> Tensor:
        """Return the members' item rows beside one another, `[V, M D]`."""
        return torch.cat([member.item_matrix() for member in self.members], dim=1)

    @property
    def repeat_logit(self) -> Tensor | None:
        """The mean of the members'."""
        logits = [logit for member in self.members if (logit := member.repeat_logit) is not None]
        return torch.stack(logits).mean() if logits else None


def make_model(
    config: ModelConfig, num_items: int, target_time: bool = True, columns: DataColumns | None = None
) -> SequenceModel:
    """Return a model with fresh weights: `SS4Rec`, or an `Ensemble` if the configuration has several members.

    Args:
        config: the shape.
        num_items: items are 1..num_items.
        target_time: as in `SS4Rec`.
        columns: as in `SS4Rec`.
    """
    kind = SS4Rec if config.members == 1 else Ensemble
    return kind(config, num_items, target_time, columns)
