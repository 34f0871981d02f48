"""Training of the item table by the rows that a step touches: inputs, targets and drawn items.

With the sampled softmax a step reads some 100,000 rows. Dense Adam goes through all of a table of 10 million for that,
and so do zeroing, norm and scaling of its gradient. Here a step gathers its rows, each once, as dense Adam would have
them by then (`skipped_steps`); the gradient is of those rows, and only they and their moments are written. Between
steps a row that was not touched is out of date: `settle` brings all rows up to date, for whoever looks at the table.

All sizes depend on the batch's shape alone, so steps can be captured as CUDA graphs: rows that fill up are row 0, the
padding, whose gradient is 0 and which therefore stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import RunConfig
from ss4rec.errors import CheckpointError, ConfigError
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.train.group import Workers
from ss4rec.train.skipped_steps import LONGEST, SkippedSteps

PAYS_FROM = 4
"""`auto` trains by rows where the catalogue has at least so many times the rows of a step."""
CHUNK_ROWS = 1 << 18
"""Rows that are brought up to date at a time."""
ITEM_TABLE = "embedding.weight"
"""Name of the table in a model of one member."""
TABLE, LAST, SUMS, STEPS = "rows.table", "rows.last", "rows.sums", "rows.steps"
"""Names in a checkpoint's training tensors; there are none where all rows are up to date."""


def choose_rows(config: RunConfig, model: SequenceModel) -> bool:
    """Return whether the item table is trained by the rows that a step touches.

    It depends on configuration and data alone: a run that goes on elsewhere goes on in the same way.

    Raises:
        ConfigError: if that is asked for and cannot be, with the reason.
    """
    wanted, reason = config.optim.item_updates, _obstacle(config, model)
    if wanted == "touched" and reason:
        raise ConfigError(f"optim.item_updates=touched: {reason}; change that or set optim.item_updates=auto")
    if wanted != "auto" or reason:
        return wanted == "touched"
    touched = 2 * config.train.batch_size * config.data.max_len + config.loss.negatives
    return model.num_items >= PAYS_FROM * touched


def _obstacle(config: RunConfig, model: SequenceModel) -> str:
    """Return what needs the whole table at each step, in words, or an empty string."""
    beta1, beta2 = config.optim.betas
    reasons = {
        f"loss.kind={config.loss.kind} reads other rows than those of sampled_softmax": config.loss.kind
        != "sampled_softmax",
        "the average of optim.ema moves every row at each step": config.optim.ema > 0,
        "model.item_attributes adds to every row at each step": config.model.item_attributes,
        "features of items (model.item_features) add to every row at each step": model.columns.items
        is not None,
        "model.members have a table each": len(model.members) > 1,
        "train.compile makes programs of its own": config.train.compile,
        f"with optim.betas={beta1},{beta2} rows move on without end": beta1**2 >= beta2,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class ItemRows:
    """The item table and its moments, of which a step reads and writes a few rows.

    The moments are the optimizer's own state of the table, which has no gradient that the optimizer would see: a
    checkpoint holds them as those of dense Adam.

    Args:
        table: item rows `[V, D]`; row 0 is padding.
        optimizer: AdamW that has the table in one of its groups.
        workers: this process's place in the group.
        most: rows that a step of one worker looks up at most, with repeats, where steps have fixed shapes; None: any.
    """

    def __init__(
        self, table: nn.Parameter, optimizer: torch.optim.Optimizer, workers: Workers, most: int | None
    ) -> None:
        self.table, self.optimizer, self.workers = table, optimizer, workers
        group, device = self._group(), table.device
        self.skipped = SkippedSteps(group["betas"], group["eps"], group["weight_decay"], device)
        self.last_V = torch.zeros(len(table), dtype=torch.int32, device=device)
        """Step that touched each row last, counted as `SkippedSteps.steps`."""
        self.settled = True
        """Whether all rows are up to date."""
        self._looked_up: tuple[Tensor, Tensor] | None = None
        size = (0 if most is None else most) * workers.world
        self._fixed = most is not None
        self.items_U = torch.zeros(size, dtype=torch.int64, device=device)
        """Rows of the step, of one worker after another."""
        self.grad_UD = torch.zeros(size, table.shape[1], dtype=table.dtype, device=device)
        """Their gradients."""

    @torch.no_grad()
    def look_up(self, *items: Tensor) -> list[Tensor]:
        """Return the up-to-date rows of each tensor of items, with a gradient that `collect` will find."""
        items_N = torch.cat([one.reshape(-1) for one in items]).int()
        unique_N, inverse_N = _unique(items_N)
        rows_ND = self._now(unique_N)[0].requires_grad_()
        self._looked_up = unique_N, rows_ND
        with torch.enable_grad():
            return list(F.embedding(inverse_N, rows_ND).split([one.numel() for one in items]))

    def collect(self) -> None:
        """Keep the gradients of the rows that were looked up, after the backward pass."""
        assert self._looked_up is not None
        unique_N, rows_ND = self._looked_up
        self._looked_up = None
        assert rows_ND.grad is not None
        grad_ND = rows_ND.grad * (unique_N > 0)[:, None]
        if not self._fixed:
            self.items_U, self.grad_UD = unique_N, grad_ND
            return
        for whole, part in ((self.items_U[self._own()], unique_N), (self.grad_UD[self._own()], grad_ND)):
            whole[: len(part)] = part
            whole[len(part) :] = 0

    def share(self) -> None:
        """Bring the rows and gradients of all workers to each of them; all workers call it."""
        if self.workers.world == 1:
            return
        if not self._fixed:
            self._pad()
        for whole in (self.items_U, self.grad_UD):
            self.workers.gather_into(whole, whole[self._own()].clone())

    def _own(self) -> slice:
        """Return which of the step's rows are this worker's."""
        each = len(self.items_U) // self.workers.world
        return slice(self.workers.rank * each, (self.workers.rank + 1) * each)

    def _pad(self) -> None:
        """Make room for all workers' rows, of as many for each as one of them has at most."""
        most = max(self.workers.gather(len(self.items_U)))
        first, after = most * self.workers.rank, most * self.workers.world
        after -= first + len(self.items_U)
        self.items_U = F.pad(self.items_U, (first, after))
        self.grad_UD = F.pad(self.grad_UD, (0, 0, first, after))

    def merge(self) -> Tensor:
        """Add up what several workers have of the same row, once they have shared it; return the gradients' norm."""
        self._merged = self.items_U, self.grad_UD
        if self.workers.world > 1:
            unique_N, inverse_N = _unique(self.items_U.int())
            self._merged = unique_N, _sums(self.grad_UD, inverse_N)
        norm: Tensor = torch.linalg.vector_norm(self._merged[1])
        return norm

    def update(self, scale: Tensor, refused: Tensor) -> None:
        """Take Adam's step with the gradients times `scale`, unless it is `refused` (1.0)."""
        items_U, grad_UD = self._merged
        state, group = self._state(), self._group()
        beta1, beta2 = group["betas"]
        counts, rate = refused == 0, torch.as_tensor(group["lr"], dtype=torch.float64)
        taken = state["step"].double() + 1
        old = [x.index_select(0, items_U) for x in self._tensors()]
        rows_UD, mean_UD, square_UD = self.skipped.catch_up(old, self.last_V.index_select(0, items_U))
        grad_UD = grad_UD * scale
        mean_UD = mean_UD.lerp(grad_UD, 1 - beta1)
        square_UD = torch.addcmul(square_UD * beta2, grad_UD, grad_UD, value=1 - beta2)
        kind = rows_UD.dtype
        size, root = rate / (1 - beta1**taken), (1 - beta2**taken).sqrt()
        rows_UD = rows_UD * (1 - rate * group["weight_decay"]).to(kind)
        rows_UD = rows_UD - size.to(kind) * mean_UD / (square_UD.sqrt() / root.to(kind) + group["eps"])
        for whole, before, after in zip(self._tensors(), old, (rows_UD, mean_UD, square_UD), strict=True):
            whole.index_copy_(0, items_U, torch.where(counts, after, before))
        self.skipped.note(rate, taken, counts)
        touched_U = torch.where(counts, self.skipped.steps, self.last_V.index_select(0, items_U))
        self.last_V.index_copy_(0, items_U, touched_U.int())
        state["step"] += counts

    @torch.no_grad()
    def settle(self) -> None:
        """Bring all rows up to date in place, where they are not."""
        if self.settled:
            return
        for part in self._parts():
            old = [whole[part] for whole in self._tensors()]
            for before, after in zip(old, self.skipped.catch_up(old, self.last_V[part]), strict=True):
                before.copy_(after)
        self._all_up_to_date()

    @torch.no_grad()
    def settled_table(self) -> Tensor:
        """Return a copy of the table in which all rows are up to date; the table stays as it is."""
        copy_VD = torch.empty_like(self.table)
        for part in self._parts():
            old = [whole[part] for whole in self._tensors()]
            copy_VD[part] = self.skipped.catch_up(old, self.last_V[part])[0]
        return copy_VD

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs beside up-to-date weights and the optimizer's state, by name."""
        if self.settled:
            return {}
        own = self.table.detach(), self.last_V, self.skipped.sums_3C, self.skipped.steps
        return dict(zip((TABLE, LAST, SUMS, STEPS), own, strict=True))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Take `state_tensors` of the checkpoint `path`, once its weights and moments are loaded.

        Raises:
            CheckpointError: if one is missing or cannot be.
        """
        own = dict(
            zip(
                (TABLE, LAST, SUMS, STEPS),
                (self.table, self.last_V, self.skipped.sums_3C, self.skipped.steps),
                strict=True,
            )
        )
        found = {name: tensors[name] for name in own if name in tensors}
        if not found:  # all rows were up to date, or a dense optimizer wrote it
            self._all_up_to_date()
            return
        for name, tensor in own.items():
            other = found.get(name)
            if other is None or other.shape != tensor.shape or other.dtype != tensor.dtype:
                raise CheckpointError(
                    f"checkpoint {path}: {name} is missing or of another model; use an earlier one"
                )
            if not bool(torch.isfinite(other).all()):
                raise CheckpointError(f"checkpoint {path}: {name} is not finite; use an earlier one")
        steps, last_V = int(found[STEPS]), found[LAST]
        if not 0 <= int(last_V.min()) <= int(last_V.max()) <= steps <= LONGEST:
            raise CheckpointError(f"checkpoint {path}: {LAST} and {STEPS} are out of range; it is damaged")
        for name, tensor in own.items():
            tensor.copy_(found[name])
        self.settled = False

    def _all_up_to_date(self) -> None:
        self.last_V.zero_()
        self.skipped.reset()
        self.settled = True

    def _now(self, items_U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return these rows and both moments as dense Adam would have them now."""
        old = [whole.index_select(0, items_U) for whole in self._tensors()]
        return self.skipped.catch_up(old, self.last_V.index_select(0, items_U))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the table and both moments."""
        state = self._state()
        return self.table.detach(), state["exp_avg"], state["exp_avg_sq"]

    def _group(self) -> dict[str, Any]:
        """Return the table's group as it is now: loading the optimizer's state makes new ones."""
        groups = self.optimizer.param_groups
        return next(group for group in groups if any(p is self.table for p in group["params"]))

    def _state(self) -> dict[str, Tensor]:
        """Return the optimizer's state of the table; like those of other parameters it begins with the first step."""
        state: dict[str, Tensor] = self.optimizer.state[self.table]
        if not state:
            state["step"] = torch.zeros((), device=self.table.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(self.table.detach()) for _ in range(2))
        return state

    def _parts(self) -> Iterator[slice]:
        return (slice(first, first + CHUNK_ROWS) for first in range(0, len(self.table), CHUNK_ROWS))


def up_to_date_moments(
    tensors: Mapping[str, Tensor], index: int, betas: tuple[float, float]
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors with the moments of the item table as dense Adam would have them.

    Args:
        tensors: a checkpoint's training tensors.
        index: number of the table in the optimizer's state.
        betas: Adam's moment decays.
    """
    if LAST not in tensors:
        return dict(tensors)
    skipped_V1 = (tensors[STEPS] - tensors[LAST]).double()[:, None]
    names = [f"optimizer.{index}.{key}" for key in ("exp_avg", "exp_avg_sq")]
    faded = {
        name: tensors[name] * (beta**skipped_V1).float() for name, beta in zip(names, betas, strict=True)
    }
    return {**tensors, **faded}


def _unique(items_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return each item once in order, filled up with 0 to as many as came in, and each item's place among them.

    Unlike `torch.unique` it does not wait for the device. int64 both.
    """
    sorted_N, order_N = items_N.sort(stable=True)
    new_N = F.pad((sorted_N[1:] != sorted_N[:-1]).long(), (1, 0))
    place_N = new_N.cumsum(0)
    unique_N = torch.zeros(len(items_N), dtype=torch.int64, device=items_N.device)
    unique_N.scatter_(0, place_N, sorted_N.long())
    return unique_N, torch.empty_like(place_N).scatter_(0, order_N, place_N)


def _sums(rows_ND: Tensor, place_N: Tensor) -> Tensor:
    """Return the sum of the rows of each place, `[N, D]`, the same bits every time."""
    found: Tensor = torch.ops.aten.embedding_dense_backward(rows_ND, place_N, len(rows_ND), -1, False)
    return found
