"""Model and loss as one module, so that compilation and capture see the whole computation."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ss4rec.config import LossConfig
from ss4rec.errors import ConfigError, UsageError
from ss4rec.kernels import resolve_loss_backend
from ss4rec.model.habits import Events, habit_cross_entropy
from ss4rec.model.inputs import Context
from ss4rec.model.losses import Repeats, bpr, cross_entropy, target_rows
from ss4rec.model.sampled import NegativeSampler, sampled_softmax, softmax_of_rows, targets_of
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SequenceModel, SS4Rec
from ss4rec.train.item_rows import ItemRows
from ss4rec.train.side_by_side import SideBySide


class Objective(nn.Module):
    """Sum of the training loss over the targets of a packed batch."""

    def __init__(self, model: SequenceModel, config: LossConfig, popularity_V: Tensor | None = None) -> None:
        """Join `model` and its loss.

        Args:
            model: the model.
            config: the loss.
            popularity_V: training events by item, for log-uniform negatives.

        Raises:
            ConfigError: if the loss cannot train what the model has.
        """
        super().__init__()
        self.model = model
        self.config = config
        self.side_by_side: SideBySide | None = None
        """Runs the members at the same time; None: one after another."""
        self.rows: ItemRows | None = None
        """Looks up the rows of a step; None: the whole table has a gradient."""
        if config.kind == "sampled_softmax":
            if model.config.repeats != "ignore":
                raise ConfigError(
                    f"loss.kind=sampled_softmax does not train model.repeats={model.config.repeats}, which needs the "
                    "scores of all items; set model.repeats=ignore or loss.kind=cross_entropy"
                )
            if config.label_smoothing:
                raise ConfigError(
                    f"loss.label_smoothing={config.label_smoothing} spreads mass over all items, which "
                    "loss.kind=sampled_softmax does not score; set it to 0"
                )
            by_rank = config.negative_sampling == "log_uniform"
            popularity_V = None if popularity_V is None else popularity_V[: model.num_trained + 1]
            self.sampler = NegativeSampler(model.num_trained, popularity_V if by_rank else None)

    @property
    def backend(self) -> str:
        """Name of the implementation of the loss that runs on the model's present device.

        Raises:
            BackendError: if one that the configuration names cannot run there.
        """
        if self.config.kind == "bpr":
            return "torch"
        if self.config.kind == "sampled_softmax":
            return resolve_loss_backend(self.config.backend, self.model.device)
        return resolve_loss_backend(self.config.backend, self.model.device, self.model.members[0].config.dim)

    @property
    def uniform_loss(self) -> float:
        """The loss of a target for a model that finds all items equally likely, in nats."""
        return math.log(2 if self.config.kind == "bpr" else max(2, self.model.num_trained))

    def forward(
        self,
        items_T: Tensor,
        gaps_T: Tensor,
        targets_T: Tensor,
        segments: Segments,
        rows_R: Tensor | None = None,
        context: Context | None = None,
    ) -> Tensor:
        """Return the summed loss as a float32 scalar, the mean over the model's members, which learn on their own.

        Targets of 0 are for context and do not count. `rows_R` are the tokens that have a target, if the caller knows
        them (else the device is waited for); with kernels of fixed size -1 stands for none.
        """
        inputs = (items_T, gaps_T, targets_T, segments, rows_R, context)
        works = [partial(self._loss, member, *inputs) for member in self.model.members]
        losses = [work() for work in works] if self.side_by_side is None else self.side_by_side.run(works)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _loss(
        self,
        model: SS4Rec,
        items_T: Tensor,
        gaps_T: Tensor,
        targets_T: Tensor,
        segments: Segments,
        rows_R: Tensor | None,
        context: Context | None,
    ) -> Tensor:
        """Return the summed loss of one member."""
        logit, held_T = model.repeat_logit, items_T
        repeats = None if logit is None else Repeats(items_T, segments, logit)
        if self.training:
            items_T = self._swap(items_T, self.config.swap_inputs)
            targets_T = self._swap(targets_T, self.config.swap_targets)
        if self.training and model.horizon is not None:
            context = with_drawn_moments(context, gaps_T, segments)
        if self.rows is not None:
            return self._loss_of_rows(self.rows, model, items_T, gaps_T, targets_T, segments, rows_R, context)
        table_VD = model.item_table()
        hidden_TD = model.encode(items_T, gaps_T, segments, context, table_VD)
        # What never trained is no wrong answer either: its features are not to learn that nobody wants it.
        weight_VD = model.item_matrix(table_VD)[: model.num_trained + 1]
        if model.habits is not None and self.config.kind == "cross_entropy":
            return habit_cross_entropy(
                hidden_TD,
                weight_VD,
                targets_T,
                model.habits,
                Events(held_T, gaps_T, segments),
                rows_R,
                chunk_tokens=self.config.chunk_tokens,
                label_smoothing=self.config.label_smoothing,
                backend=self.backend,
            )
        if self.config.kind == "bpr":
            return bpr(hidden_TD, weight_VD, targets_T, negatives=self.config.negatives)
        if self.config.kind == "sampled_softmax":
            drawn_K, log_q_K = self.sampler.draw(self.config.negatives, hidden_TD.device)
            return sampled_softmax(hidden_TD, weight_VD, targets_T, drawn_K, log_q_K, rows_R, self.backend)
        return cross_entropy(
            hidden_TD,
            weight_VD,
            targets_T,
            rows_R,
            chunk_tokens=self.config.chunk_tokens,
            label_smoothing=self.config.label_smoothing,
            repeats=repeats,
            backend=self.backend,
        )

    def _loss_of_rows(
        self,
        rows: ItemRows,
        model: SS4Rec,
        items_T: Tensor,
        gaps_T: Tensor,
        targets_T: Tensor,
        segments: Segments,
        rows_R: Tensor | None,
        context: Context | None,
    ) -> Tensor:
        """Return the summed loss, from no other rows of the table than those of the step."""
        rows_R = target_rows(targets_T) if rows_R is None else rows_R
        drawn_K, log_q_K = self.sampler.draw(self.config.negatives, items_T.device)
        inputs_TD, own_RD, drawn_KD = rows.look_up(items_T, targets_of(targets_T, rows_R), drawn_K)
        own_RD, drawn_KD = model.candidate_rows(own_RD), model.candidate_rows(drawn_KD)
        hidden_TD = model.encode(items_T, gaps_T, segments, context, rows_TD=inputs_TD)
        return softmax_of_rows(hidden_TD, own_RD, drawn_KD, targets_T, drawn_K, log_q_K, rows_R, self.backend)

    def _swap(self, items_T: Tensor, probability: float) -> Tensor:
        """Replace items by random ones with a probability; 0 (no target) stays."""
        if probability == 0.0:
            return items_T
        random_T = torch.randint_like(items_T, 1, self.model.num_trained + 1)
        swapped_T = torch.rand(items_T.shape, device=items_T.device) < probability
        return torch.where(swapped_T & (items_T > 0), random_T, items_T)


def with_drawn_moments(context: Context | None, gaps_T: Tensor, segments: Segments) -> Context:
    """Say at every second event, by chance, how long ago it was at a moment drawn evenly before the next event.

    Args:
        context: what else is known.
        gaps_T: seconds since the event before (`data.target_time=false`).
        segments: where sequences begin; the last event of each has no next one, so nothing is said there.

    Raises:
        UsageError: without a context.
    """
    if context is None:
        raise UsageError("the model reads moments of recommendation; pass a Context")
    until_next_T = torch.cat([gaps_T[1:], gaps_T.new_full((1,), -1.0)])
    last_S = (segments.offsets_S1[1:].long() - 1).clamp_min(0)
    until_next_T = until_next_T.scatter(0, last_S, -1.0)
    share_T, told_T = torch.rand(2, len(gaps_T), device=gaps_T.device)
    elapsed_T = torch.where((told_T < 0.5) & (until_next_T >= 0), share_T * until_next_T, -1.0)
    return replace(context, elapsed_T=elapsed_T)
