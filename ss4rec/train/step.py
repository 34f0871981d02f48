"""One optimizer step: forward, backward, the sum over workers, guard, update, moving average.

All gradients are views of one row of numbers, which also carries the loss and the number of targets: workers add them
up in one collective, and dividing by the total count makes the loss a mean over all targets, whatever each worker
got. On a GPU the two halves, before and after that sum, are captured as CUDA graphs and replayed: a step of this model
is some hundred kernels of a few microseconds, which a host cannot launch as fast as the device runs them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ss4rec.config import RunConfig
from ss4rec.errors import BackendError
from ss4rec.kernels.launch import compile_together
from ss4rec.train.fixed_shapes import BatchShape, Stager, StepInputs
from ss4rec.train.group import Workers
from ss4rec.train.item_rows import ITEM_TABLE, ItemRows, choose_rows
from ss4rec.train.objective import Objective
from ss4rec.train.optim import FiniteGuard, WeightAverage, make_optimizer, set_rate
from ss4rec.train.prefetch import DeviceBatch
from ss4rec.train.side_by_side import SideBySide
from ss4rec.train.skipped_steps import LONGEST

_ALIGN = 4
"""Elements: every gradient begins at 16 bytes, which vectorised kernels want."""


class FlatGradients:
    """The gradients of all parameters as views of one tensor, with the step's loss and number of targets at its end.

    Backward passes add to them in place; never set a `.grad` to None.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], device: torch.device) -> None:
        parameters = list(parameters)
        ends, size = [], 0
        for parameter in parameters:
            ends.append(size + parameter.numel())
            size += -(-parameter.numel() // _ALIGN) * _ALIGN
        self.flat = torch.zeros(size + 2, device=device)
        self.body, self.totals = self.flat[:size], self.flat[size:]
        for parameter, end in zip(parameters, ends, strict=True):
            parameter.grad = self.flat[end - parameter.numel() : end].view_as(parameter)


class TrainStep:
    """Holds all that a step changes, and takes it.

    Args:
        config: the run.
        objective: model and loss.
        workers: this process's place in the group.
        stager: fills batches up to fixed shapes, as CUDA graphs need; None launches every kernel by itself.
    """

    def __init__(
        self, config: RunConfig, objective: Objective, workers: Workers, stager: Stager | None
    ) -> None:
        self.config, self.objective, self.workers = config, objective, workers
        self.model = model = objective.model
        device = workers.device
        self.optimizer = make_optimizer(model, config.optim, device)
        self.rows: ItemRows | None = None
        """The item table, where only the rows that a step touches are trained."""
        dense = list(model.parameters())
        if choose_rows(config, model):
            table = dict(model.named_parameters())[ITEM_TABLE]
            most = None if stager is None else 2 * stager.most + config.loss.negatives
            objective.rows = self.rows = ItemRows(table, self.optimizer, workers, most)
            dense = [parameter for parameter in dense if parameter is not table]
        self.gradients = FlatGradients(dense, device)
        self.guard = FiniteGuard(self.optimizer, device, config.train.skip_bad_steps)
        self.average = WeightAverage(model, config.optim.ema) if config.optim.ema else None
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        """Loss and targets of the epoch so far, over all workers."""
        self.loss, self.norm = torch.zeros(2, device=device)
        """Mean loss and gradient norm of the last step, over all workers."""
        self._global_step = torch.zeros((), dtype=torch.int64, device=device)
        self._graphs = None if stager is None else StepGraphs(stager)
        if self._graphs is not None and len(model.members) > 1:
            objective.side_by_side = SideBySide(len(model.members), device)

    def __call__(self, batch: DeviceBatch, global_step: int, lr: float) -> Tensor:
        """Take a step and return this worker's own loss sum, on the device."""
        if self.rows and global_step % LONGEST == 0:
            self.rows.settle()
        self._global_step.fill_(global_step)
        set_rate(self.optimizer, lr)
        if self._graphs is None:
            self._compute(batch.inputs)
        else:
            self._graphs.compute(batch, self._compute)
        own_loss = self.gradients.totals[0].clone()
        self.workers.sum_(self.gradients.flat)
        if self.rows:
            self.rows.share()
            self.rows.settled = False
        if self._graphs is None:
            self._update()
        else:
            self._graphs.replay("update", self._update)
        return own_loss

    @contextmanager
    def served_weights(self) -> Iterator[None]:
        """Let the model have the weights that would be served: all rows up to date, and the average if one is kept."""
        if self.rows:
            self.rows.settle()
        if self.average:
            self.average.swap()
        yield
        if self.average:
            self.average.swap()

    def forget_graphs(self) -> None:
        """Capture anew from the next step on: a graph reads and writes the tensors of the time it was captured.

        Loading the optimizer's state puts other tensors in their place.
        """
        if self._graphs is not None:
            self._graphs = self._graphs.fresh()

    def compile_kernels(self, batch: DeviceBatch) -> int:
        """Compile side by side what a step of `batch` launches, and return how many kernels that are.

        Gradients and the state of random numbers are garbage afterwards; seed before the next step.
        """
        if self.workers.device.type != "cuda" or self.config.train.compile:
            return 0
        return compile_together(lambda: self._compute(batch.inputs))

    def _compute(self, inputs: StepInputs) -> None:
        """Fill `gradients` with this worker's sums."""
        self.gradients.flat.zero_()
        with autocast(self.config.train.precision, self.workers.device):
            loss_sum = self.objective(
                inputs.items_T,
                inputs.gaps_T,
                inputs.targets_T,
                inputs.segments,
                inputs.rows_R,
                inputs.context,
            )
        loss_sum.backward()
        if self.rows:
            self.rows.collect()
        self.gradients.totals[0].copy_(loss_sum.detach())
        self.gradients.totals[1].copy_((inputs.rows_R >= 0).sum())

    def _update(self) -> None:
        """Update weights, average and running sums from the gradients' sums over all workers."""
        totals, body = self.gradients.totals, self.gradients.body
        scale = 1.0 / totals[1].clamp_min(1.0)  # where people did nothing that counts
        self.loss.copy_(totals[0] * scale)
        norm = torch.linalg.vector_norm(body)
        if self.rows:
            norm = torch.hypot(norm, self.rows.merge())
        self.norm.copy_(norm * scale)
        if self.config.optim.clip_norm:
            scale = scale * (self.config.optim.clip_norm / (self.norm + 1e-6)).clamp_max(1.0)
        body.mul_(scale)
        self.guard.step(self.loss, self.norm, self._global_step)
        if self.rows:
            self.rows.update(scale, self.guard.refused)
        if self.average:
            self.average.update()
        # A step that was skipped trained on nothing.
        self.sums += torch.where(self.guard.last_bad, 0.0, totals)


class StepGraphs:
    """CUDA graphs that share their working memory; they must run one after another.

    A function is run as it is the first time (kernels are compiled and loaded then, which a capture forbids), captured
    the second time, and replayed from then on. It may read and write only tensors that live as long as this object.

    Args:
        stager: made the batches, and knows where their parts are.
    """

    def __init__(self, stager: Stager) -> None:
        self._stager = stager
        self._words: dict[BatchShape, Tensor] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._graphs: dict[object, torch.cuda.CUDAGraph | None] = {}

    def fresh(self) -> StepGraphs:
        """Return an object without any graph, once the device is done with these."""
        torch.cuda.synchronize()
        return StepGraphs(self._stager)

    def compute(self, batch: DeviceBatch, function: Callable[[StepInputs], None]) -> None:
        """Run `function` on `batch`, which is copied to where the graph of its shape reads it."""
        assert batch.shape is not None
        assert batch.words_W is not None
        shape = batch.shape
        words_W = self._words.setdefault(shape, batch.words_W)
        if words_W is not batch.words_W:
            words_W.copy_(batch.words_W)
        self.replay(shape, lambda: function(self._stager.views(words_W, shape)))

    def replay(self, key: object, function: Callable[[], None]) -> None:
        """Run `function`, or the graph that was captured from an earlier function of the same key."""
        if key not in self._graphs:
            self._graphs[key] = None
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                function()
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = torch.cuda.CUDAGraph()
            # Only this thread must keep to what a capture allows: others copy batches meanwhile.
            with (
                _without_collection(),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ),
            ):
                function()
        graph.replay()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python's garbage collector away: what it frees on the device, as an earlier run's graphs, ends a capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def choose_graphs(config: RunConfig, objective: Objective, device: torch.device) -> bool:
    """Return whether steps are replayed as CUDA graphs.

    Raises:
        BackendError: if they are asked for and cannot be, with the reason.
    """
    wanted = config.train.cuda_graphs
    if wanted == "no" or (reason := _obstacle(config, objective, device)) == "":
        return wanted != "no"
    if wanted == "yes":
        raise BackendError(f"train.cuda_graphs=yes: {reason}; change that or set train.cuda_graphs=auto")
    return False


def _obstacle(config: RunConfig, objective: Objective, device: torch.device) -> str:
    """Return what keeps steps from being captured, in words, or an empty string."""
    if device.type != "cuda":
        return f"the model is on {device.type!r}, which has no CUDA graphs"
    # The layers' own kernels take batches of any size, torch's too; so does the sampled softmax, whoever computes it.
    parts = {name: objective.model.backends[name] for name in ("time", "relation")}
    if config.loss.kind != "sampled_softmax":
        parts["loss"] = objective.backend
    if other := {part: name for part, name in parts.items() if name != "triton"}:
        return f"only Triton's kernels take batches of fixed size, and this run has {other}"
    if config.train.compile:
        return "train.compile makes graphs of its own"
    if config.train.deterministic:
        return "train.deterministic launches every kernel by itself"
    return ""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes of this precision run."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
