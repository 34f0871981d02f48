"""What `benchmarks.kernels` times: each kernel of ours at a size, the work that it must do at least, and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.timing import Calls
from ss4rec.kernels import layer_torch, layer_triton, relation_triton, time_triton
from ss4rec.kernels.inputs import SelectiveInputs, TimeSystem
from ss4rec.model.segments import Segments

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHANNELS, STATES, TIME_STATES = 128, 32, 32
ROTATE_BYTES = 200e6
TIME_OPS = {"forward": 42, "forward+backward": 134}
"""float32 instructions a token and state of the time-aware scan, counted in its source (an FMA is one)."""
SCAN_OPS = {"forward": 5, "forward+backward": 21}
"""The same for the selective scan, exponentials aside."""


@dataclass(frozen=True)
class Work:
    """What a call must do at least."""

    moved: float
    """Bytes."""
    exps: float
    """Exponentials."""
    ops: float
    """Other float32 instructions."""

    def floor_ms(self, rates: dict[str, float]) -> float:
        """Return the largest of the three times."""
        return 1e3 * max(
            self.moved / rates["bytes_per_s"], self.exps / rates["exps_per_s"], self.ops / rates["ops_per_s"]
        )


@dataclass
class Case:
    """One row: a kernel of ours at one size and its peers."""

    kernel: str
    sequences: int
    length: int
    dtype: torch.dtype
    work: Work
    ours: Calls
    peers: dict[str, Callable[[], Calls]] = field(default_factory=dict)
    """By name; the first is the one that ratios are taken to. Built when it is its turn."""
    compare: Callable[[], dict[str, float]] | None = None
    """Relative difference to the first peer of the output and every gradient."""


class Draw:
    """Random input on the device, from a generator of its own (a failed graph capture breaks the default one)."""

    def __init__(self) -> None:
        self.generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal values."""
        return torch.randn(*shape, generator=self.generator, device=DEVICE).to(dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Values from 0 to 1."""
        return torch.rand(*shape, generator=self.generator, device=DEVICE)


def both_ways(
    function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a call of `function` forward and backward that gives the output and all gradients."""
    leaves = [x for x in inputs if x.requires_grad]

    def call() -> tuple[Tensor, ...]:
        output = function(*inputs)
        return output.detach(), *torch.autograd.grad(output, leaves, grad)

    return call


def compare(names: str, ours: Callable[[], tuple[Tensor, ...]], peer: Callable[[], tuple[Tensor, ...]]) -> dict[str, float]:  # fmt: skip
    """Return relative differences by name; memory that is handed out is full of NaN."""
    blocks = [torch.full((2**n,), float("nan"), device=DEVICE) for n in range(8, 27 if DEVICE.type == "cuda" else 12)]  # fmt: skip
    del blocks
    return {
        name: float((mine.double() - theirs.double()).norm() / theirs.double().norm())
        for name, mine, theirs in zip(names.split(), ours(), peer(), strict=True)
    }


def sets_for(bytes_each: float) -> int:
    """Return how many input sets make a rotation larger than the L2 cache."""
    return max(2, int(ROTATE_BYTES / bytes_each)) if DEVICE.type == "cuda" else 1


def selective_scan_cases(sequences: int, length: int, draw: Draw) -> list[Case]:
    """Forward, and forward with backward, against mamba-ssm's CUDA kernel in its own layout `[S, E, L]`."""
    tokens, half = sequences * length, torch.bfloat16
    segments = Segments.from_lengths([length] * sequences, DEVICE)

    def inputs() -> list[Tensor]:
        rates_EN = -torch.arange(1.0, STATES + 1, device=DEVICE).repeat(CHANNELS, 1)
        values = [
            draw.normal(tokens, CHANNELS, dtype=half), draw.normal(tokens, CHANNELS, dtype=half) - 2, rates_EN,
            draw.normal(tokens, STATES, dtype=half), draw.normal(tokens, STATES, dtype=half), draw.normal(CHANNELS),
            draw.normal(tokens, CHANNELS, dtype=half), draw.normal(CHANNELS),
        ]  # fmt: skip
        return [x.requires_grad_() for x in values]

    def wide(x: Tensor) -> Tensor:
        """Bring packed tokens into mamba-ssm's layout."""
        if x.shape[0] == tokens:
            x = x.detach().unflatten(0, (sequences, length)).transpose(1, 2).contiguous()
        return x.detach().requires_grad_()

    def narrow(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(0, 1) if x.dim() == 3 else x

    def mamba_scan(*args: Tensor) -> Tensor:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        return selective_scan_fn(*args, delta_softplus=True)

    def ours(*args: Tensor) -> Tensor:
        return relation_triton.selective_scan(SelectiveInputs(*args), segments)

    sets = [inputs() for _ in range(sets_for(tokens * CHANNELS * 8))]
    grad = draw.normal(tokens, CHANNELS, dtype=half)

    def peer_call(values: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return both_ways(mamba_scan, [wide(x) for x in values], wide(grad).detach())

    channels_bytes, states_bytes, exps = (
        tokens * CHANNELS * 2,
        tokens * STATES * 2,
        tokens * CHANNELS * STATES,
    )
    # Forward: u, delta, z, y and B, C. Backward: u, delta, z, dy, du, ddelta, dz and B, C, dB, dC.
    forward = Work(4 * channels_bytes + 2 * states_bytes, exps, SCAN_OPS["forward"] * exps)
    both = Work(11 * channels_bytes + 6 * states_bytes, 2 * exps, SCAN_OPS["forward+backward"] * exps)
    return [
        Case("selective_scan forward", sequences, length, half, forward,
             [lambda values=values: ours(*values) for values in sets],
             {"mamba-ssm": lambda: [lambda values=values: mamba_scan(*values)
                                    for values in ([wide(x) for x in one] for one in sets)]}),
        Case("selective_scan forward+backward", sequences, length, half, both,
             [both_ways(ours, values, grad) for values in sets],
             {"mamba-ssm": lambda: [peer_call(values) for values in sets]},
             lambda: compare("y u delta A B C D z bias", both_ways(ours, sets[0], grad),
                             lambda: tuple(narrow(x) for x in peer_call(sets[0])()))),
    ]  # fmt: skip


def conv_cases(sequences: int, length: int, draw: Draw) -> list[Case]:
    """Forward and backward of the convolution with SiLU against causal-conv1d (channels last, its fast layout)."""
    tokens, half = sequences * length, torch.bfloat16
    segments = Segments.from_lengths([length] * sequences, DEVICE)

    def peer(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from causal_conv1d import causal_conv1d_fn

        rows = values.unflatten(0, (sequences, length)).transpose(1, 2)
        return causal_conv1d_fn(rows, weight, bias, activation="silu").transpose(1, 2).flatten(0, 1)

    def ours(*args: Tensor) -> Tensor:
        return relation_triton.causal_conv(*args, segments)

    def inputs() -> list[Tensor]:
        values = draw.normal(tokens, CHANNELS, dtype=half), draw.normal(CHANNELS, 4), draw.normal(CHANNELS)
        return [x.requires_grad_() for x in values]

    sets = [inputs() for _ in range(sets_for(tokens * CHANNELS * 8))]
    grad = draw.normal(tokens, CHANNELS, dtype=half)
    taps = 4 * tokens * CHANNELS
    work = Work(5 * tokens * CHANNELS * 2, 2 * tokens * CHANNELS, 4 * taps)
    return [
        Case("causal_conv forward+backward", sequences, length, half, work,
             [both_ways(ours, values, grad) for values in sets],
             {"causal-conv1d": lambda: [both_ways(peer, values, grad) for values in sets]},
             lambda: compare("y x w b", both_ways(ours, sets[0], grad), both_ways(peer, sets[0], grad)))
    ]  # fmt: skip


def time_scan_cases(sequences: int, length: int, dtype: torch.dtype, draw: Draw) -> list[Case]:
    """Against accelerated-scan's complex scan: the scan alone, and with torch's discretisation around it."""
    tokens = sequences * length
    segments = Segments.from_lengths([length] * sequences, DEVICE)

    def scan(gates: Tensor, pairs: Tensor) -> Tensor:
        from accelerated_scan.complex import scan as complex_scan

        return complex_scan(gates, pairs)

    def peer(drive: Tensor, gaps: Tensor, re: Tensor, im: Tensor, log_step: Tensor) -> Tensor:
        rates_P = torch.complex(re, im)
        decay_TP = torch.exp(rates_P * (gaps[:, None] * torch.exp(log_step)))
        drive_TP = (decay_TP - 1) / rates_P * torch.complex(*drive.float().chunk(2, 1))
        rows = (
            x.unflatten(0, (sequences, length)).transpose(1, 2).contiguous() for x in (decay_TP, drive_TP)
        )
        states_TP = scan(*rows).transpose(1, 2).flatten(0, 1)
        return torch.cat([states_TP.real, states_TP.imag], 1).to(dtype)

    def ours(drive: Tensor, gaps: Tensor, *system: Tensor) -> Tensor:
        return time_triton.time_scan(drive, gaps, TimeSystem(*system), segments)

    def inputs() -> list[Tensor]:
        values = [
            draw.normal(tokens, 2 * TIME_STATES, dtype=dtype), 100 * draw.uniform(tokens),
            -0.5 - draw.uniform(TIME_STATES), 10 * draw.normal(TIME_STATES), 4.6 * draw.uniform(TIME_STATES) - 6.9,
        ]  # fmt: skip
        return [values[0].requires_grad_(), values[1], *(x.requires_grad_() for x in values[2:])]

    def scan_alone(backward: bool) -> Calls:
        shape = (sequences, TIME_STATES, length)
        pair = [torch.polar(draw.uniform(*shape), draw.normal(*shape)).requires_grad_() for _ in range(2)]
        if not backward:
            return [lambda: scan(*pair)]
        return [both_ways(scan, pair, torch.complex(draw.normal(*shape), draw.normal(*shape)))]

    sets = [inputs() for _ in range(sets_for(tokens * TIME_STATES * 4 * dtype.itemsize))]
    grad = draw.normal(tokens, 2 * TIME_STATES, dtype=dtype)
    one, states = tokens * 2 * TIME_STATES * dtype.itemsize, tokens * TIME_STATES
    # Forward: drive, gaps, states. Backward: drive, gaps, states, gradient of states, gradient of drive.
    forward = Work(2 * one + 4 * tokens, states, TIME_OPS["forward"] * states)
    both = Work(6 * one + 8 * tokens, 2 * states, TIME_OPS["forward+backward"] * states)
    return [
        Case("time_scan forward", sequences, length, dtype, forward,
             [lambda values=values: ours(*values) for values in sets],
             {"torch + accelerated-scan": lambda: [lambda values=values: peer(*values) for values in sets[:2]],
              "accelerated-scan alone": lambda: scan_alone(backward=False)}),
        Case("time_scan forward+backward", sequences, length, dtype, both,
             [both_ways(ours, values, grad) for values in sets],
             {"torch + accelerated-scan": lambda: [both_ways(peer, values, grad) for values in sets[:2]],
              "accelerated-scan alone": lambda: scan_alone(backward=True)},
             lambda: compare("states drive re im log_step", both_ways(ours, sets[0], grad),
                             both_ways(peer, sets[0], grad))),
    ]  # fmt: skip


def residual_norm_cases(sequences: int, length: int, draw: Draw) -> list[Case]:
    """Dropout of values and whole layers, residual sum and layer norm, against torch's separate kernels."""
    tokens, half = sequences * length, torch.bfloat16
    dropouts = (0.4, 0.15)

    def inputs() -> list[Tensor]:
        values = draw.normal(tokens, CHANNELS), draw.normal(tokens, CHANNELS, dtype=half)
        return [x.requires_grad_() for x in (*values, draw.normal(CHANNELS), draw.normal(CHANNELS))]

    def ours(*args: Tensor) -> Tensor:
        return layer_triton.residual_norm(*args, 1e-6, *dropouts)

    def peer(*args: Tensor) -> Tensor:
        return layer_torch.residual_norm(*args, 1e-6, *dropouts)

    def plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Without dropout, so that both give the same."""
        return lambda *args: function(*args, 1e-6)

    sets = [inputs() for _ in range(sets_for(tokens * CHANNELS * 6))]
    grad = draw.normal(tokens, CHANNELS)
    values = tokens * CHANNELS
    # Forward: stream, branch, result. Backward: stream, branch and gradient, gradients of stream and branch.
    work = Work((4 + 2 + 4 + 4 + 2 + 4 + 4 + 2) * values, 0, 30 * values)
    return [
        Case("residual_norm forward+backward", sequences, length, half, work,
             [both_ways(ours, one, grad) for one in sets],
             {"torch": lambda: [both_ways(peer, one, grad) for one in sets]},
             lambda: compare("y values branch weight bias", both_ways(plain(layer_triton.residual_norm), sets[0], grad),
                             both_ways(plain(layer_torch.residual_norm), sets[0], grad)))
    ]  # fmt: skip


def swiglu_cases(sequences: int, length: int, draw: Draw) -> list[Case]:
    """The feed-forward layer's gate against torch's separate kernels."""
    tokens, half = sequences * length, torch.bfloat16
    sets = [
        [draw.normal(tokens, 4 * CHANNELS, dtype=half).requires_grad_()]
        for _ in range(sets_for(tokens * CHANNELS * 8))
    ]
    grad = draw.normal(tokens, 2 * CHANNELS, dtype=half)
    values = tokens * 2 * CHANNELS
    # Forward: gate, up, result. Backward: gate, up, gradient, and the gradients of both.
    work = Work(8 * 2 * values, 2 * values, 15 * values)
    return [
        Case("swiglu forward+backward", sequences, length, half, work,
             [both_ways(layer_triton.swiglu, one, grad) for one in sets],
             {"torch": lambda: [both_ways(layer_torch.swiglu, one, grad) for one in sets]},
             lambda: compare("y x", both_ways(layer_triton.swiglu, sets[0], grad),
                             both_ways(layer_torch.swiglu, sets[0], grad)))
    ]  # fmt: skip
