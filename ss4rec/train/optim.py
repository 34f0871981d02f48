"""Adam, its schedule, the moving average of weights, and the guard against non-finite updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ss4rec.config import OptimConfig
from ss4rec.model.ss4rec import SequenceModel

RATE_SHARE = "rate_share"
"""Key of a parameter group: share of the learning rate that it trains with."""


def make_optimizer(
    model: nn.Module, config: OptimConfig, device: torch.device | None = None
) -> torch.optim.Adam:
    """Return fused Adam; decoupled weight decay applies to matrices only.

    Parameters with one dimension, and those that a module marked `no_decay` (state matrices of the SSMs, whose
    values are rates), are not decayed. On a CUDA `device` the learning rate is a tensor and the step can be captured.
    """
    on_gpu = device is not None and device.type == "cuda"
    groups = [
        {
            "params": [parameter for _, parameter in parameters],
            "weight_decay": config.weight_decay if matrix else 0.0,
            RATE_SHARE: share,
            "lr": torch.tensor(share * config.lr, device=device) if on_gpu else share * config.lr,
        }
        for (matrix, share), parameters in _grouped(model, config).items()
        if parameters
    ]
    return torch.optim.AdamW(groups, betas=config.betas, fused=True, capturable=on_gpu)


def parameter_names(model: nn.Module, config: OptimConfig) -> list[str]:
    """Return the model's parameters by name, in the order in which the optimizer's state numbers them."""
    return [name for parameters in _grouped(model, config).values() for name, _ in parameters]


def _grouped(
    model: nn.Module, config: OptimConfig
) -> dict[tuple[bool, float], list[tuple[str, nn.Parameter]]]:
    """Return the parameters by whether they decay and their share of the learning rate."""
    dim = model.config.dim if isinstance(model, SequenceModel) else config.base_dim
    grouped: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not getattr(parameter, "no_decay", False)
        share = rate_share(parameter, dim, config.base_dim) if matrix and config.base_dim else 1.0
        grouped.setdefault((matrix, share), []).append((name, parameter))
    return grouped


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the learning rate `lr`, on the device where rates are tensors."""
    for group in optimizer.param_groups:
        own = group[RATE_SHARE] * lr
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def rate_share(matrix: nn.Parameter, dim: int, base_dim: int) -> float:
    """Return the share of the rate of width `base_dim` that a matrix of a model of width `dim` trains with.

    Adam moves each weight by about its rate, so what a matrix adds to its output grows with its number of inputs: the
    rate falls as that grows (muP, arXiv 2203.03466, table 8). Embeddings are item rows of the output too.
    """
    return min(1.0, base_dim / dim) * min(1.0, 2 * dim / matrix.shape[-1])


def lr_share(step: int, *, total_steps: int, config: OptimConfig) -> float:
    """Return the share of the peak learning rate at `step` (from 0): linear warm-up, then constant or cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return config.final_lr_share + (1.0 - config.final_lr_share) * cosine


class WeightAverage:
    """Exponential moving average of a model's weights: avg <- decay * avg + (1 - decay) * weight."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live: list[Tensor] = list(model.parameters())
        self.average: list[Tensor] = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the live weights."""
        torch._foreach_lerp_(self.average, self.live, 1.0 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights; call again to undo."""
        for parameter, average in zip(self.live, self.average, strict=True):
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)


class FiniteGuard:
    """Keeps the optimizer from taking a step with a non-finite loss or gradient, without waiting for the device.

    The verdict stays on the device as the optimizer's `found_inf` (the protocol of `torch.amp.GradScaler`: fused
    Adam leaves everything as it is when it is 1), so the host need not synchronise at each step. After more than
    `allowed` bad steps every later step is refused too, so weights stay those of the last good step until
    the host looks (`bad_steps`, `first_bad_step`).

    Args:
        optimizer: a fused torch optimizer.
        allowed: bad steps that are skipped without stopping.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, allowed: int) -> None:
        self.optimizer = optimizer
        self.allowed = allowed
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.last_bad = torch.zeros((), dtype=torch.bool, device=device)
        """Whether the last step was bad, on the device."""
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]

    def step(self, loss: Tensor, grad_norm: Tensor, global_step: Tensor | int) -> None:
        """Update the weights unless `loss` or `grad_norm` (the same on all workers) is not finite.

        Every tensor of the guard is changed in place, so the step can be captured in a CUDA graph.
        """
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self.last_bad.copy_(bad)
        self.count += bad
        self.first.copy_(torch.where((self.first < 0) & (self.count > self.allowed), global_step, self.first))
        self.optimizer.found_inf.copy_(bad | (self.first >= 0))  # type: ignore[attr-defined]
        self.optimizer.step()

    @property
    def refused(self) -> Tensor:
        """1 where the last step was refused, else 0, on the device."""
        found: Tensor = self.optimizer.found_inf  # type: ignore[attr-defined]
        return found

    @property
    def bad_steps(self) -> int:
        """Bad steps so far (waits for the device)."""
        return int(self.count)

    @property
    def first_bad_step(self) -> int | None:
        """The global step at which training had to stop, or None (waits for the device)."""
        first = int(self.first)
        return None if first < 0 else first
