"""The published SS4Rec training step, rebuilt from public packages to be timed against.

Written from the equations (arXiv 2502.08132) with the packages that the published model stands on: s5-pytorch's `S5`,
which discretises B for every event and scans in complex64 by pairs, and mamba-ssm's `Mamba`. One sample is a prefix,
padded to the full length, with one target: its next item. Both packages are imported when the model is built.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import elapsed_ms


@dataclass(frozen=True)
class Shape:
    """The published configuration on ML-1M."""

    items: int = 3416
    dim: int = 64
    blocks: int = 2
    time_states: int = 32
    relation_states: int = 32
    length: int = 200
    batch: int = 1024
    dropout: float = 0.2
    lr: float = 1e-3


def mamba(shape: Shape) -> nn.Module:
    """Return mamba-ssm's layer of this shape; its fused path needs a GPU."""
    from mamba_ssm import Mamba

    return Mamba(d_model=shape.dim, d_state=shape.relation_states, d_conv=4, expand=2)


class OfficialBlock(nn.Module):
    """LN(Drop(S5(x, gaps)) + x), then LN(Drop(Mamba(h)) + h), with one LayerNorm for both."""

    def __init__(self, shape: Shape, make_relation: Callable[[Shape], nn.Module]) -> None:
        super().__init__()
        from s5 import S5

        self.time = S5(shape.dim, shape.time_states, dt_min=0.001, dt_max=0.1)
        self.relation = make_relation(shape)
        self.norm = nn.LayerNorm(shape.dim, eps=1e-12)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, values_BLD: Tensor, gaps_BL: Tensor) -> Tensor:
        """Return `[B, L, D]` for inputs `[B, L, D]` and gaps in seconds, the step scale of each event."""
        values_BLD = self.norm(self.dropout(self.time(values_BLD, gaps_BL)) + values_BLD)
        return self.norm(self.dropout(self.relation(values_BLD)) + values_BLD)


class OfficialModel(nn.Module):
    """Embedding, blocks, the state at the last event, scores by the embedding (padding column included)."""

    def __init__(self, shape: Shape, make_relation: Callable[[Shape], nn.Module] = mamba) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.items + 1, shape.dim, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(OfficialBlock(shape, make_relation) for _ in range(shape.blocks))

    def forward(self, items_BL: Tensor, gaps_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the scores of all items after the last event of each prefix, `[B, V]`."""
        values_BLD = self.embedding(items_BL)
        for block in self.blocks:
            values_BLD = block(values_BLD, gaps_BL)
        last_BD = values_BLD[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]
        return last_BD @ self.embedding.weight.T


def draw_batch(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return items, gaps, lengths and targets of random prefixes, right-padded; the cost does not depend on lengths."""
    lengths_B = torch.randint(2, shape.length + 1, (shape.batch,), device=device)
    padding_BL = torch.arange(shape.length, device=device) >= lengths_B[:, None]
    items_BL = torch.randint(1, shape.items + 1, (shape.batch, shape.length), device=device)
    gaps_BL = (
        torch.exp(12 * torch.rand(shape.batch, shape.length, device=device)).floor() - 1
    )  # up to two days
    targets_B = torch.randint(1, shape.items + 1, (shape.batch,), device=device)
    return items_BL.masked_fill(padding_BL, 0), gaps_BL.masked_fill(padding_BL, 0), lengths_B, targets_B


def time_official(
    shape: Shape,
    device: torch.device,
    *,
    warm_up: int,
    steps: int,
    make_relation: Callable[[Shape], nn.Module] = mamba,
) -> dict[str, Any]:
    """Train on random prefixes and return the median step (float32, Adam), its targets a second and its peak memory.

    The data are on the device already, so nothing but the step itself is timed.

    Raises:
        ArithmeticError: if the loss is not finite.
    """
    torch.manual_seed(0)
    model = OfficialModel(shape, make_relation).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=shape.lr)
    batches = [draw_batch(shape, device) for _ in range(4)]
    losses: list[Tensor] = []

    def step() -> None:
        items_BL, gaps_BL, lengths_B, targets_B = batches[len(losses) % len(batches)]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(items_BL, gaps_BL, lengths_B), targets_B)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    for _ in range(warm_up):
        step()
    times = [elapsed_ms(step, device) for _ in range(steps)]
    if not bool(torch.stack(losses).isfinite().all()):
        raise ArithmeticError("the loss of the published computation is not finite; its time means nothing")
    step_ms = statistics.median(times)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "step_ms": step_ms, "targets_per_s": shape.batch / step_ms * 1e3, "memory_gib": peak,
        "parameters": sum(p.numel() for p in model.parameters()), "last_loss": float(losses[-1]),
        "precision": "float32", "batch": f"{shape.batch} prefixes of length {shape.length}",
    }  # fmt: skip
