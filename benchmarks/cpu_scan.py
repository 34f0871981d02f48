"""Relation-aware scan on the CPU: formulations side by side, forward and backward, and the whole training step.

    OMP_NUM_THREADS=2 python -m benchmarks.cpu_scan

E=128, N=32, windows of about 170 tokens, float32; the best of a few repeats. benchmarks/NOTES.md says what was
expected.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.config import ModelConfig
from ss4rec.kernels import relation_torch
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.model.losses import cross_entropy
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec

INNER, STATES, ITEMS, REPEATS = 128, 32, 3416, 4
LAYOUTS = ((1, 16), (4, 64), (8, 64), (8, 128), (16, 128), (16, 256), (32, 128))
"""(GROUP_SEQUENCES, CHUNK_ROWS) of `ss4rec.kernels.relation_torch`."""


def step_loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    bias: Tensor,
    segments: Segments,
) -> Tensor:
    """Step through time over all sequences at once; autograd keeps every state."""
    layout = segments.time_major
    dt = F.softplus(delta + bias)
    parts = [x[layout.order_T].split(layout.active) for x in (dt, dt * u, B, C)]
    state = A.new_zeros(layout.active[0], *A.shape)
    rows = []
    for active, dt_k, drive, B_k, C_k in zip(layout.active, *parts, strict=True):
        state = torch.exp(dt_k[:, :, None] * A) * state[:active] + drive[:, :, None] * B_k[:, None, :]
        rows.append(torch.einsum("sen,sn->se", state, C_k))
    return (torch.cat(rows)[layout.inverse_T] + D * u) * F.silu(z)


def doubling(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    bias: Tensor,
    segments: Segments,
) -> Tensor:
    """Scan in log2(L) passes over all states (Hillis and Steele); autograd keeps every pass."""
    dt = F.softplus(delta + bias)
    first = (segments.positions_T == 0)[:, None, None]
    decay = torch.exp(dt[:, :, None] * A).masked_fill(first, 0.0)
    state = (dt * u)[:, :, None] * B[:, None, :]
    shift = 1
    while shift < segments.max_len:
        state = torch.cat([state[:shift], state[shift:] + decay[shift:] * state[:-shift]])
        decay = torch.cat([decay[:shift], decay[shift:] * decay[:-shift]])
        shift *= 2
    return (torch.einsum("ten,tn->te", state, C) + D * u) * F.silu(z)


def torch_scan(*values: Any) -> Tensor:
    """Scan with the product's torch backend; the last argument are the segments."""
    *inputs, segments = values
    return relation_torch.selective_scan(SelectiveInputs(*inputs), segments)


def window_lengths(windows: int) -> list[int]:
    """Draw lengths as ML-1M's: most windows are full."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(windows).log_normal_(5.2, 0.4, generator=generator)
    return lengths.clamp(20, 200).long().tolist()


def tokens_per_s(work: Callable[[], Tensor], tokens: int) -> float:
    """Return tokens a second of the fastest of `REPEATS` forward and backward passes, after one to warm up."""
    best_s = float("inf")
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work().backward()
        best_s = min(best_s, time.perf_counter() - start)
    return tokens / best_s


def measure_scan(scan: Callable[..., Tensor], windows: int) -> float:
    """Return tokens a second of one scan."""
    segments = Segments.from_lengths(window_lengths(windows))
    tokens = segments.num_tokens
    shapes: list[tuple[int, ...]]
    shapes = [
        (tokens, INNER),
        (tokens, INNER),
        (INNER, STATES),
        (tokens, STATES),
        (tokens, STATES),
    ]
    shapes += [(INNER,), (tokens, INNER), (INNER,)]
    leaves = [torch.randn(*shape) for shape in shapes]
    leaves[2] = -torch.arange(1.0, STATES + 1).repeat(INNER, 1)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    return tokens_per_s(lambda: scan(*leaves, segments).sum(), tokens)


def measure_step(config: ModelConfig, chunk_tokens: int) -> float:
    """Return targets a second of a whole step on 64 windows: encode, loss, backward, Adam."""
    lengths = window_lengths(64)
    model = SS4Rec(config, ITEMS)
    optimizer = torch.optim.Adam(model.parameters())
    items = torch.randint(1, ITEMS + 1, (sum(lengths),))
    gaps = torch.rand(sum(lengths)) * 1e4

    def work() -> Tensor:
        optimizer.step()
        optimizer.zero_grad()
        hidden = model.encode(items, gaps, Segments.from_lengths(lengths))
        return cross_entropy(hidden, model.item_matrix(), items, chunk_tokens=chunk_tokens)

    return tokens_per_s(work, sum(lengths))


def main() -> None:
    """Print both tables."""
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; tokens a second, forward and backward"
    )
    print(f"{'step loop, autograd':42s}{measure_scan(step_loop, 16):10,.0f}")
    print(f"{'doubling, autograd':42s}{measure_scan(doubling, 16):10,.0f}")
    for group, rows in LAYOUTS:
        relation_torch.GROUP_SEQUENCES, relation_torch.CHUNK_ROWS = group, rows
        name = f"chunked, {group} sequences, {rows} rows"
        print(f"{name:42s}{measure_scan(torch_scan, 64):10,.0f}")
    relation_torch.GROUP_SEQUENCES, relation_torch.CHUNK_ROWS = 16, 128
    for states, chunk in ((32, 256), (32, 512), (32, 2048), (32, 8192), (8, 512)):
        name = f"whole step, {states} states, chunk_tokens={chunk}"
        print(f"{name:42s}{measure_step(ModelConfig(relation_states=states), chunk):10,.0f}")


if __name__ == "__main__":
    main()
