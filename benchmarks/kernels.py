"""Time the Triton kernels against their floors and against their peers.

`python -m benchmarks.kernels [--out benchmarks/results]` needs a CUDA device, prints a table and writes
`kernels-<YYYYMMDD>.json`. A floor is the largest of three times: bytes that must move (each input once, each output
once) over the bandwidth of a large copy; exponentials, and other operations, that must be done over their measured
rates. Times leave out the host and rotate through more memory than the L2 cache holds (`benchmarks.timing`).
Outputs and gradients are compared with the peer's first, with freed memory filled with NaN, so that an element that
was never written shows. A peer that is missing or fails is an entry of its row and costs no other row.

`--smoke` runs tiny shapes on a CPU in Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.record import headline, write_record
from benchmarks.timing import Calls, side_stream, time_calls
from ss4rec.kernels import relation_triton, time_triton
from ss4rec.kernels.math_triton import exp2
from ss4rec.model.segments import Segments

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHANNELS, STATES, TIME_STATES = 128, 32, 32
SCAN_SHAPES = ((1024, 200), (100, 2000), (64, 200))
"""(sequences, length) of the relation-aware path: 200,000 tokens at both lengths, and the default batch size."""
TIME_SHAPES = ((4096, 200), (400, 2000), (1024, 200))
FULL_CARD_TOKENS = 200_000
"""Rows with at least so many tokens count for the headline figures."""
ROTATE_BYTES = 200e6
AGREEMENT = 2e-2
"""Largest relative difference to a peer, whose bf16 rounding differs."""
TIME_OPS = {"forward": 60, "forward+backward": 175}
"""float32 instructions a token and state of the time-aware scan, counted in its source (an FMA is one)."""
SCAN_OPS = {"forward": 5, "forward+backward": 21}
"""The same for the selective scan, exponentials aside."""


@triton.jit
def _exp_kernel(out_ptr, ROUNDS: tl.constexpr):  # noqa: ANN001 - a Triton pointer
    at = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    a = at * -1e-9
    for _ in range(ROUNDS):
        a = exp2(a) - 1.5
    tl.store(out_ptr + at, a)


@triton.jit
def _fma_kernel(out_ptr, ROUNDS: tl.constexpr):  # noqa: ANN001 - a Triton pointer
    at = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    a = at * 1e-9
    b = a + 1.0
    for _ in range(ROUNDS):
        a = tl.fma(a, 0.999, b)
        b = tl.fma(b, 0.999, a)
    tl.store(out_ptr + at, a + b)


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


def ceilings() -> dict[str, float]:
    """Measure bytes per second of a device copy (read and written), exponentials and multiply-adds per second."""
    big, programs, rounds = (2**28, 2**11, 1024) if DEVICE.type == "cuda" else (2**20, 2, 8)
    source = torch.arange(big, device=DEVICE, dtype=torch.int32)
    target = torch.empty_like(source)
    out = torch.empty(programs * 1024, device=DEVICE)
    copy_s = time_calls([lambda: target.copy_(source)]).ms / 1e3
    exp_s = time_calls([lambda: _exp_kernel[(programs,)](out, ROUNDS=rounds)]).ms / 1e3
    fma_s = time_calls([lambda: _fma_kernel[(programs,)](out, ROUNDS=rounds)]).ms / 1e3
    done = out.numel() * rounds
    return {
        "bytes_per_s": 2 * source.nbytes / copy_s, "exps_per_s": done / exp_s, "ops_per_s": 2 * done / fma_s
    }  # fmt: skip


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
        return relation_triton.selective_scan(*args, segments)

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

    def ours(*args: Tensor) -> Tensor:
        return time_triton.time_scan(*args, segments)

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


def measure(case: Case, rates: dict[str, float]) -> dict[str, Any]:
    """Return the row of a case; whatever fails is named under `errors`."""
    floor_ms = case.work.floor_ms(rates)
    row: dict[str, Any] = {
        "kernel": case.kernel, "sequences": case.sequences, "length": case.length,
        "tokens": case.sequences * case.length, "dtype": str(case.dtype).removeprefix("torch."),
        "floor_ms": floor_ms, "peers": {}, "errors": {},
    }  # fmt: skip
    if case.compare is not None:
        with recorded(row, "comparison"):
            differences = case.compare()
            row["largest_difference"] = max(differences.values())
            # NaN is no difference below the limit either.
            wrong = {name: value for name, value in differences.items() if not value < AGREEMENT}
            if wrong:
                row["errors"]["difference"] = f"more than {AGREEMENT} from the peer: {wrong}"
    with recorded(row, "ours"):
        timing = time_calls(case.ours)
        row |= asdict(timing) | {
            "floor_share": floor_ms / timing.ms,
            "bandwidth_share": 1e3 * case.work.moved / rates["bytes_per_s"] / timing.ms,
        }
    for name, make in case.peers.items():
        with recorded(row, name):
            row["peers"][name] = asdict(time_calls(make()))
    if row["peers"] and "ms" in row:
        row["ratio_to_peer"] = row["ms"] / next(iter(row["peers"].values()))["ms"]
    return row


class recorded:  # noqa: N801 - reads as a statement
    """Context that writes an exception into `row["errors"]` and goes on."""

    def __init__(self, row: dict[str, Any], what: str) -> None:
        self.row, self.what = row, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.row["errors"][self.what] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return True
        return False


def show(row: dict[str, Any]) -> None:
    """Print a row on one line, and its errors below."""
    line = f"{row['kernel']:31s} {row['sequences']:5d}x{row['length']:<5d}{row['dtype']:9s}"
    if "ms" in row:
        line += f"{row['ms']:8.3f} ms  floor {row['floor_ms']:.3f} ({row['floor_share']:.0%})"
        line += f"  bandwidth {row['bandwidth_share']:.0%}  [{row['method'][:60]}]"
    for name, peer in row["peers"].items():
        line += f"  {name} {peer['ms']:.3f}" + (
            f" (ours {row['ms'] / peer['ms']:.2f}x)" if "ms" in row else ""
        )
    print(line, *(f"  {what}: {error}" for what, error in row["errors"].items()), sep="\n", flush=True)


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst of the rows that fill the card and agree with their peer."""
    full = [
        r for r in rows if r["tokens"] >= FULL_CARD_TOKENS and "ms" in r and "difference" not in r["errors"]
    ]
    shares = [r for r in full if r["kernel"].startswith("time_scan")]
    ratios = [r for r in full if r["kernel"] == "selective_scan forward+backward" and "ratio_to_peer" in r]
    found = []
    if shares:
        worst = min(shares, key=lambda r: r["bandwidth_share"])
        found.append(headline(
            "kernels.time_scan_bandwidth_share", worst["bandwidth_share"], "of copy bandwidth", 0.6,
            f"worst of all full-card rows: {name(worst)}",
        ))  # fmt: skip
    if ratios:
        worst = max(ratios, key=lambda r: r["ratio_to_peer"])
        found.append(headline(
            "kernels.selective_scan_ratio_to_mamba_ssm", worst["ratio_to_peer"], "time over the peer's time", 1.0,
            f"mamba-ssm; worst of L = 200 and 2,000: {name(worst)}",
        ))  # fmt: skip
    return found


def name(row: dict[str, Any]) -> str:
    """Name a row in words."""
    return f"{row['kernel']}, {row['sequences']} x {row['length']}, {row['dtype']}"


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="Tiny shapes, any device; the record is called kernels-smoke.")
def main(out: Path, smoke: bool) -> None:
    """Run all cases and write the record."""
    if not smoke and DEVICE.type != "cuda":
        raise click.ClickException(
            "no CUDA device; --smoke runs tiny shapes on a CPU with TRITON_INTERPRET=1"
        )
    scan_shapes, time_shapes = (((1, 9),), ((1, 9),)) if smoke else (SCAN_SHAPES, TIME_SHAPES)
    rows: list[dict[str, Any]] = []
    with side_stream():
        rates = ceilings()
        print(
            "copy {bytes_per_s:.3g} B/s, {exps_per_s:.3g} exp/s, {ops_per_s:.3g} op/s".format(**rates),
            flush=True,
        )
        draw = Draw()
        makers: list[Callable[[], list[Case]]] = [
            *(lambda s=s, d=d: time_scan_cases(*s, d, draw) for s in time_shapes for d in (torch.bfloat16, torch.float32)),
            *(lambda s=s: selective_scan_cases(*s, draw) for s in scan_shapes),
            *(lambda s=s: conv_cases(*s, draw) for s in scan_shapes),
        ]  # fmt: skip
        for make in makers:
            for case in make():
                rows.append(measure(case, rates))
                show(rows[-1])
            del case  # its inputs
            gc.collect()
    found = headlines(rows)
    path = write_record(
        "kernels-smoke" if smoke else "kernels", [{"kernel": "ceilings", **rates}, *rows], found, out
    )
    for entry in found:
        print(f"{entry['name']} {entry['value']:.3f} (goal {entry['goal']}); {entry['peer']}")
    print(path)


if __name__ == "__main__":
    main()
