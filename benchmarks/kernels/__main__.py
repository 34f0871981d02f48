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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import triton
import triton.language as tl

from benchmarks.kernels.cases import (
    DEVICE,
    Case,
    Draw,
    conv_cases,
    residual_norm_cases,
    selective_scan_cases,
    swiglu_cases,
    time_scan_cases,
)
from benchmarks.record import headline, write_record
from benchmarks.timing import side_stream, time_calls
from ss4rec.kernels.math_triton import exp2

SCAN_SHAPES = ((1024, 200), (100, 2000), (64, 200))
"""(sequences, length) of the relation-aware path: 200,000 tokens at both lengths, and the default batch size."""
TIME_SHAPES = ((4096, 200), (400, 2000), (1024, 200))
FULL_CARD_TOKENS = 200_000
"""Rows with at least so many tokens count for the headline figures."""
AGREEMENT = 2e-2
"""Largest relative difference to a peer, whose bf16 rounding differs."""


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
            *(lambda s=s, make=make: make(*s, draw) for make in (residual_norm_cases, swiglu_cases)
              for s in (scan_shapes[0], scan_shapes[-1])),
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
