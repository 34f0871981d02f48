"""Time the Triton kernels against their floors and against their peers; needs a CUDA device.

`python benchmarks/kernels.py [--out benchmarks/results]` prints a table and writes `kernels-<YYYYMMDD>.json`. A floor is the
larger of two times: bytes that must move (each input once, each output once) over the bandwidth of a large copy, and
exponentials that must be taken over the measured rate of exponentials. Times are medians of CUDA graph replays over inputs that rotate
through more memory than the L2 cache holds. Before a kernel is timed its outputs are checked against its peer's, with
freed memory filled with NaN first, so an element that was never written shows.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.testing import do_bench_cudagraph

from ss4rec.kernels import relation_triton, time_triton
from ss4rec.kernels.math_triton import exp2
from ss4rec.model.segments import Segments

CHANNELS, STATES, TIME_STATES = 128, 32, 32
SCAN_SHAPES = ((1024, 200), (64, 200), (100, 2000))
"""(sequences, length) of the relation-aware path: a full card at both lengths, and the default batch size."""
TIME_SHAPES = ((4096, 200), (1024, 200), (400, 2000))
ROTATE_BYTES = 200e6
AGREEMENT = 2e-2
"""Largest relative difference to a peer, whose bf16 rounding differs."""


@triton.jit
def _exp_kernel(out_ptr, ROUNDS: tl.constexpr):  # noqa: ANN001 - a Triton pointer
    at = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    a = at * -1e-9
    for _ in range(ROUNDS):
        a = exp2(a) - 1.5
    tl.store(out_ptr + at, a)


def bench_ms(functions: list[Callable[[], Any]]) -> float:
    """Return the median time of one call; calls rotate through `functions`, which differ in their inputs."""
    turn = itertools.cycle(functions)
    return float(do_bench_cudagraph(lambda: next(turn)(), rep=60, return_mode="median"))


def ceilings() -> dict[str, float]:
    """Measure bytes per second of a device copy (read and written) and exponentials per second."""
    source = torch.randint(0, 99, (2**28,), device="cuda", dtype=torch.int32)
    target = torch.empty_like(source)
    copy_ms = bench_ms([lambda: target.copy_(source)])
    out = torch.empty(2**21, device="cuda")
    exp_ms = bench_ms([lambda: _exp_kernel[(2**11,)](out, ROUNDS=1024)])
    return {"bytes_per_s": 2 * source.nbytes / copy_ms * 1e3, "exps_per_s": out.numel() * 1024 / exp_ms * 1e3}


def both_ways(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> Callable[[], Any]:
    """Return a call of `function` forward and backward that gives (output, gradients)."""

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        output = function(*inputs)
        return output, torch.autograd.grad(output, inputs, grad)

    return call


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random input on the device."""
    return torch.randn(*shape, device="cuda", dtype=dtype)


def poison() -> None:
    """Fill memory that the allocator will hand out next with NaN."""
    blocks = [
        torch.full((2**28,), float("nan"), device="cuda"),
        *(normal(2**n) * torch.nan for n in range(8, 24)),
    ]
    del blocks


def assert_close(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Stop if two results differ by more than `AGREEMENT` (NaN never passes)."""
    error = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
    if not error < AGREEMENT:
        raise SystemExit(f"{name} differs from its peer by {error:.2e}, more than {AGREEMENT}")


def scan_inputs(tokens: int) -> list[Tensor]:
    """bf16 activations and float32 parameters of the selective scan, packed."""
    half = torch.bfloat16
    rates_EN = -torch.arange(1.0, STATES + 1, device="cuda").repeat(CHANNELS, 1)
    inputs = [
        normal(tokens, CHANNELS, dtype=half), normal(tokens, CHANNELS, dtype=half) - 2, rates_EN,
        normal(tokens, STATES, dtype=half), normal(tokens, STATES, dtype=half), normal(CHANNELS),
        normal(tokens, CHANNELS, dtype=half), normal(CHANNELS),
    ]  # fmt: skip
    return [x.detach().requires_grad_() for x in inputs]


def to_channels_first(x_TX: Tensor, sequences: int) -> Tensor:
    """`[S*L, X]` to the `[S, X, L]` of mamba-ssm."""
    return x_TX.detach().unflatten(0, (sequences, -1)).transpose(1, 2).contiguous()


def bench_selective_scan(sequences: int, length: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Forward and backward against mamba-ssm's CUDA kernel in its own layout."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    tokens = sequences * length
    segments = Segments.from_lengths([length] * sequences, "cuda")
    sets = max(2, int(ROTATE_BYTES / (tokens * CHANNELS * 8)))
    ours, peers, ours_forward, peers_forward = [], [], [], []

    def peer(*args: Tensor) -> Tensor:
        return selective_scan_fn(*args, delta_softplus=True)

    for _ in range(sets):
        inputs = scan_inputs(tokens)
        grad = normal(tokens, CHANNELS, dtype=torch.bfloat16)
        wide = [
            (to_channels_first(x, sequences) if x.shape[0] == tokens else x.detach()).requires_grad_()
            for x in inputs
        ]
        ours.append(both_ways(lambda *a: relation_triton.selective_scan(*a, segments), inputs, grad))
        peers.append(both_ways(peer, wide, to_channels_first(grad, sequences)))
        ours_forward.append(lambda inputs=inputs: relation_triton.selective_scan(*inputs, segments))
        peers_forward.append(lambda wide=wide: peer(*wide))
    poison()
    (output, grads), (peer_output, peer_grads) = ours[0](), peers[0]()
    for name, mine, theirs in zip(
        ("y", "u", "delta", "A", "B", "C", "D", "z", "bias"),
        (output, *grads),
        (peer_output, *peer_grads),
        strict=True,
    ):
        assert_close(name, mine, theirs.transpose(1, 2).flatten(0, 1) if theirs.dim() == 3 else theirs)
    wide_bytes, narrow_bytes, exps = tokens * CHANNELS * 2, tokens * STATES * 2, tokens * CHANNELS * STATES
    # Forward: u, delta, z, y and B, C. Backward: u, delta, z, dy, du, ddelta, dz and B, C, dB, dC.
    size = {"tokens": tokens, "sequences": sequences, "length": length, "dtype": "bfloat16"}
    return [
        row("selective_scan forward", size, bench_ms(ours_forward), 4 * wide_bytes + 2 * narrow_bytes, exps, rates,
            {"mamba-ssm": bench_ms(peers_forward)}),
        row("selective_scan forward+backward", size, bench_ms(ours), 11 * wide_bytes + 6 * narrow_bytes, 2 * exps,
            rates, {"mamba-ssm": bench_ms(peers)}),
    ]  # fmt: skip


def bench_conv(sequences: int, length: int, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Forward and backward of the convolution with SiLU against causal-conv1d (channels last, its fast layout)."""
    from causal_conv1d import causal_conv1d_fn

    tokens = sequences * length
    segments = Segments.from_lengths([length] * sequences, "cuda")
    ours, peers = [], []

    def peer(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = values.unflatten(0, (sequences, length)).transpose(1, 2)
        return causal_conv1d_fn(rows, weight, bias, activation="silu").transpose(1, 2).flatten(0, 1)

    for _ in range(max(2, int(ROTATE_BYTES / (tokens * CHANNELS * 8)))):
        inputs = [normal(tokens, CHANNELS, dtype=torch.bfloat16), normal(CHANNELS, 4), normal(CHANNELS)]
        inputs = [x.requires_grad_() for x in inputs]
        grad = normal(tokens, CHANNELS, dtype=torch.bfloat16)
        ours.append(both_ways(lambda *a: relation_triton.causal_conv(*a, segments), inputs, grad))
        peers.append(both_ways(peer, inputs, grad))
    poison()
    (output, grads), (peer_output, peer_grads) = ours[0](), peers[0]()
    for name, mine, theirs in zip("yxwb", (output, *grads), (peer_output, *peer_grads), strict=True):
        assert_close(f"conv {name}", mine, theirs)
    size = {"tokens": tokens, "sequences": sequences, "length": length, "dtype": "bfloat16"}
    moved = 5 * tokens * CHANNELS * 2
    return [
        row(
            "causal_conv forward+backward",
            size,
            bench_ms(ours),
            moved,
            0,
            rates,
            {"causal-conv1d": bench_ms(peers)},
        )
    ]


def bench_time_scan(
    sequences: int, length: int, dtype: torch.dtype, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """Forward, and forward with backward, against torch discretisation with accelerated-scan's complex scan."""
    from accelerated_scan.complex import scan

    tokens = sequences * length
    segments = Segments.from_lengths([length] * sequences, "cuda")
    ours, ours_forward, peers, scans = [], [], [], []

    def peer(drive: Tensor, gaps: Tensor, re: Tensor, im: Tensor, log_step: Tensor) -> Tensor:
        rates_P = torch.complex(re, im)
        decay_TP = torch.exp(rates_P * (gaps[:, None] * torch.exp(log_step)))
        drive_TP = (decay_TP - 1) / rates_P * torch.complex(*drive.float().chunk(2, 1))
        states = scan(
            *(x.unflatten(0, (sequences, length)).transpose(1, 2).contiguous() for x in (decay_TP, drive_TP))
        )
        states_TP = states.transpose(1, 2).flatten(0, 1)
        return torch.cat([states_TP.real, states_TP.imag], 1).to(dtype)

    for _ in range(max(2, int(ROTATE_BYTES / (tokens * TIME_STATES * 4 * dtype.itemsize)))):
        gaps = torch.rand(tokens, device="cuda") * 100
        inputs = [
            normal(tokens, 2 * TIME_STATES, dtype=dtype), gaps, -0.5 - torch.rand(TIME_STATES, device="cuda"),
            10 * normal(TIME_STATES), torch.rand(TIME_STATES, device="cuda") * 4.6 - 6.9,
        ]  # fmt: skip
        leaves = [x if x is gaps else x.requires_grad_() for x in inputs]
        grad = normal(tokens, 2 * TIME_STATES, dtype=dtype)

        def call(function: Callable[..., Tensor], leaves: list[Tensor] = leaves, grad: Tensor = grad) -> Any:
            output = function(*leaves)
            return output, torch.autograd.grad(output, [leaves[0], *leaves[2:]], grad)

        ours.append(lambda call=call: call(lambda *a: time_triton.time_scan(*a, segments)))
        peers.append(lambda call=call: call(peer))
        ours_forward.append(lambda leaves=leaves: time_triton.time_scan(*leaves, segments))
    gates = torch.polar(
        torch.rand(sequences, TIME_STATES, length, device="cuda"), normal(sequences, TIME_STATES, length)
    )
    pairs = torch.complex(normal(*gates.shape), normal(*gates.shape))
    scans.append(lambda: scan(gates, pairs))
    poison()
    output, grads = ours[0]()
    for name, mine, theirs in zip(("states", "drive", "re", "im", "log_step"), (output, *grads), itertools.chain(*(
        (peer_output, *peer_grads) for peer_output, peer_grads in [peers[0]()])), strict=True):  # fmt: skip
        assert_close(f"time {name}", mine, theirs)
    one = tokens * 2 * TIME_STATES * dtype.itemsize
    size = {
        "tokens": tokens,
        "sequences": sequences,
        "length": length,
        "dtype": str(dtype).removeprefix("torch."),
    }
    # Forward: drive, gaps, states. Backward: drive, gaps, states, gradient of states, gradient of drive.
    exps = tokens * TIME_STATES
    return [
        row("time_scan forward", size, bench_ms(ours_forward), 2 * one + 4 * tokens, exps, rates,
            {"accelerated-scan, scan alone": bench_ms(scans)}),
        row("time_scan forward+backward", size, bench_ms(ours), 6 * one + 8 * tokens, 2 * exps, rates,
            {"torch + accelerated-scan": bench_ms(peers)}),
    ]  # fmt: skip


def row(
    kernel: str, size: dict[str, Any], ms: float, moved: float, exps: float, rates: dict[str, float],
    peers: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """One line of the table, printed as soon as it is measured."""
    floor_ms = max(moved / rates["bytes_per_s"], exps / rates["exps_per_s"]) * 1e3
    line = {
        "kernel": kernel, **size, "ms": ms, "floor_ms": floor_ms, "floor_share": floor_ms / ms,
        "bandwidth_share": moved / rates["bytes_per_s"] * 1e3 / ms,
        "peers_ms": peers, "ratio_to_peer": ms / next(iter(peers.values())),
    }  # fmt: skip
    print(
        f"{kernel:32s} {size['sequences']:5d} x {size['length']:5d} {size['dtype']:9s} {ms:8.4f} ms  floor {floor_ms:.4f} "
        f"({line['floor_share']:.0%})  bandwidth {line['bandwidth_share']:.0%}  "
        + "  ".join(f"{name} {value:.4f} ms (ratio {ms / value:.2f})" for name, value in peers.items()),
        flush=True,
    )
    return line


def headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two goals: worst ratio to mamba-ssm on a full card, and share of copy bandwidth of the time-aware scan."""
    scan = [
        r["ratio_to_peer"]
        for r in rows
        if r["kernel"] == "selective_scan forward+backward" and r["sequences"] >= 100
    ]
    share = [r["bandwidth_share"] for r in rows if r["kernel"] == "time_scan forward+backward"]
    return [
        {"name": "kernels.time_scan_bandwidth_share", "value": max(share), "unit": "of copy bandwidth", "goal": 0.6,
         "peer": "torch + accelerated-scan"},
        {"name": "kernels.selective_scan_ratio_to_mamba_ssm", "value": max(scan), "unit": "time ratio", "goal": 1.0,
         "peer": "mamba-ssm"},
    ]  # fmt: skip


def main() -> None:
    """Run all benchmarks and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    out: Path = parser.parse_args().out
    torch.manual_seed(0)
    rates = ceilings()
    print(
        f"copy {rates['bytes_per_s'] / 1e12:.2f} TB/s, {rates['exps_per_s'] / 1e12:.2f} T exp/s", flush=True
    )
    rows: list[dict[str, Any]] = []
    for shape in SCAN_SHAPES:
        rows += bench_selective_scan(*shape, rates)
        rows += bench_conv(*shape, rates)
    for shape in TIME_SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            rows += bench_time_scan(*shape, dtype, rates)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    packages = ("torch", "triton", "mamba-ssm", "causal-conv1d", "accelerated-scan")
    record = {
        "commit": commit, "command": " ".join(["python", *sys.argv]), "device": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in packages}, "ceilings": rates, "rows": rows,
        "headline": headline(rows),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"kernels-{datetime.date.today():%Y%m%d}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    for entry in record["headline"]:
        print(f"{entry['name']} {entry['value']:.3f} (goal {entry['goal']})")


if __name__ == "__main__":
    main()
