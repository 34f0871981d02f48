"""Compiles every Triton kernel for cards that are not there, and prints what each program asks of its card.

    PYTHONPATH=.venv/triton python -m tools.cards [ARCH ...] [--sample] [--threads N] [--out FOLDER]  (needs no GPU)

What was compiled is kept in TRITON_CACHE_DIR: with several cores, start one process for each ARCH, then all at once.
One line a kernel and shape: shared memory, registers a thread, bytes of spills a thread. Exit code 1 if a card cannot
start one of them. CI takes the sample of shapes; all of them are in the record.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from ss4rec.kernels import launch as launching
from ss4rec.kernels.cards import CARDS, Card
from ss4rec.model.segments import Segments

MAX_SPILLS = 1024
"""Bytes of a thread that may be spilled. Wide rows in float32 may spill eight times as much: each of their products is
three in TF32."""
WIDTHS = (32, 64, 128, 256, 512)
STATES = (8, 16, 32, 64)
TWINS = {86: (80, 89)}
"""Triton writes the same program (PTX) for these kinds of card; what differs is what the assembler makes of it."""
KINDS = (torch.bfloat16, torch.float32)


class NoCard:
    """Stands for a card that is compiled for and not there."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        """Return what to compile for."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """Return a number of its own for each kind of card: Triton keeps the target of a device from its first use."""
        return self.arch

    def get_current_stream(self, device: int | None = None) -> int:
        """Return the only stream."""
        return 0


class Use(NamedTuple):
    """What one program of a kernel asks for."""

    kernel: str
    shape: str
    shared_bytes: int
    registers: int
    spill_bytes: int
    threads: int

    def problem(self, card: Card) -> str | None:
        """Return why `card` cannot start it, or would crawl."""
        if self.shared_bytes > card.shared_bytes:
            return (
                f"{self.shared_bytes / 1024:.0f} KiB of shared memory, the card has {card.shared_bytes >> 10}"
            )
        if self.registers * self.threads > card.registers:
            return f"{self.registers} registers for each of {self.threads} threads"
        wide = re.search(r"float32 (256|512)", self.shape) is not None
        if self.spill_bytes > MAX_SPILLS * (8 if wide else 1):
            return f"{self.spill_bytes} bytes spilled by each thread"
        return None


def _softmax(dim: int, kind: torch.dtype, held: bool) -> None:
    from ss4rec.kernels.softmax_triton import held_bits, softmax_loss

    hidden_TD = torch.zeros(64, dim, requires_grad=True)
    weight_VD = torch.zeros(1001, dim, requires_grad=True)
    items_T = torch.ones(64, dtype=torch.int64)
    bits_TW = held_bits(items_T, 1001, Segments.from_lengths([32, 32])) if held else None
    logit = torch.tensor(1.0, requires_grad=True) if held else None
    softmax_loss(
        hidden_TD, weight_VD, items_T, torch.arange(64), smoothing=0.1 if held else 0.0, kind=kind,
        bits_TW=bits_TW, held_logit=logit,
    ).backward()  # fmt: skip


def _habits(dim: int, kind: torch.dtype) -> None:
    from ss4rec.kernels.softmax_triton import held_bits, log_sum_exp

    hidden_TD = torch.zeros(64, dim, requires_grad=True)
    weight_VD = torch.zeros(1001, dim, requires_grad=True)
    bits_TW = held_bits(torch.ones(64, dtype=torch.int64), 1001, Segments.from_lengths([32, 32]))
    log_sum_exp(hidden_TD, weight_VD, torch.arange(64), kind=kind, bits_TW=bits_TW).sum().backward()


def _sampled(kind: torch.dtype) -> None:
    from ss4rec.kernels.sampled_triton import part_softmax

    items_K, items_C = (torch.ones(size, dtype=torch.int64) for size in (4096, 64))
    bias_K, own_C, live_C = (torch.zeros(size) for size in (4096, 64, 64))
    part_softmax(torch.zeros(64, 4096, dtype=kind), bias_K, items_K, items_C, own_C, live_C)


def _buckets(size: int) -> None:
    from ss4rec.kernels.buckets_triton import bucket_sums

    bucket_sums(torch.zeros(5000), torch.zeros(5000, dtype=torch.int32), size)


def _time(states: int, kind: torch.dtype, sequences: int, gap_map: bool) -> None:
    from ss4rec.kernels.inputs import TimeSystem
    from ss4rec.kernels.time_triton import time_scan

    drive_T2P = torch.zeros(2 * sequences, 2 * states, dtype=kind, requires_grad=True)
    gaps_T = torch.zeros(2 * sequences, requires_grad=gap_map)
    parameters = [torch.zeros(states, requires_grad=True) for _ in range(5 if gap_map else 3)]
    segments = Segments.from_lengths([2] * sequences)
    time_scan(drive_T2P, gaps_T, TimeSystem(*parameters), segments).sum().backward()


def _relation(states: int, kind: torch.dtype) -> None:
    from ss4rec.kernels.inputs import SelectiveInputs
    from ss4rec.kernels.relation_triton import selective_scan

    u_TE, delta_TE, z_TE = (torch.zeros(16, 128, dtype=kind, requires_grad=True) for _ in range(3))
    B_TN, C_TN = (torch.zeros(16, states, dtype=kind, requires_grad=True) for _ in range(2))
    A_EN, D_E, bias_E = (torch.zeros(128, states), torch.zeros(128), torch.zeros(128))
    inputs = SelectiveInputs(u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, bias_E)
    selective_scan(inputs, Segments.from_lengths([8, 8])).sum().backward()


def _conv(taps: int, kind: torch.dtype) -> None:
    from ss4rec.kernels.conv_triton import causal_conv

    values_TE = torch.zeros(16, 128, dtype=kind, requires_grad=True)
    causal_conv(
        values_TE, torch.zeros(128, taps), torch.zeros(128), Segments.from_lengths([8, 8])
    ).sum().backward()


def _layers(dim: int, kind: torch.dtype) -> None:
    from ss4rec.kernels.layer_triton import residual_norm, swiglu

    values_TD = torch.zeros(16, dim, requires_grad=True)
    branch_TD = torch.zeros(16, dim, dtype=kind, requires_grad=True)
    weight_D, bias_D = torch.ones(dim, requires_grad=True), torch.zeros(dim, requires_grad=True)
    residual_norm(values_TD, branch_TD, weight_D, bias_D, 1e-6, 0.1, 0.1).sum().backward()
    swiglu(torch.zeros(16, 8 * dim, dtype=kind, requires_grad=True)).sum().backward()


Shape = tuple[str, Callable[[], None]]


def sample() -> Iterator[Shape]:
    """Yield a shape or more of each kernel: a name, and work that launches kernels. The largest are among them."""
    for kind in KINDS:
        name = _name(kind)
        for dim in WIDTHS[1:]:
            yield f"{name} {dim} held", partial(_softmax, dim, kind, True)
        yield f"{name} 64 plain", partial(_softmax, 64, kind, False)
        yield f"{name} 64 habits", partial(_habits, 64, kind)
        yield f"{name} drawn", partial(_sampled, kind)
        for dim in (64, 512):
            yield f"{name} {dim} layers", partial(_layers, dim, kind)
        yield f"{name} N 32", partial(_relation, 32, kind)
    for states, sequences in ((32, 4096), (64, 256), (16, 1)):
        yield f"bfloat16 P {states}", partial(_time, states, torch.bfloat16, sequences, True)
    yield "float32 P 32", partial(_time, 32, torch.float32, 4096, True)
    yield "bfloat16 N 64", partial(_relation, 64, torch.bfloat16)
    for taps in (4, 8):
        yield f"bfloat16 taps {taps}", partial(_conv, taps, torch.bfloat16)
    yield "float32 buckets 96", partial(_buckets, 96)


def small_sample() -> Iterator[Shape]:
    """Yield shapes that compile in seconds: matrix products, sums over rows, a scan."""
    kind = torch.bfloat16
    yield "softmax", partial(_softmax, 64, kind, True)
    yield "layers", partial(_layers, 64, kind)
    yield "N", partial(_relation, 16, kind)


def shapes() -> Iterator[Shape]:
    """Yield the sample, then all that presets, `auto` and sensible fields ask for beside it."""
    yield from sample()
    for kind in KINDS:
        name = _name(kind)
        for dim in WIDTHS:
            yield f"{name} {dim} held", partial(_softmax, dim, kind, True)
            yield f"{name} {dim} plain", partial(_softmax, dim, kind, False)
            yield f"{name} {dim} habits", partial(_habits, dim, kind)
            yield f"{name} {dim} layers", partial(_layers, dim, kind)
        for states in STATES:
            yield f"{name} N {states}", partial(_relation, states, kind)
            for sequences in (1, 256, 4096):
                for gap_map in (True, False):
                    work = partial(_time, states, kind, sequences, gap_map)
                    yield f"{name} P {states} {'log' if gap_map else 'linear'}", work
        for taps in (2, 4, 8):
            yield f"{name} taps {taps}", partial(_conv, taps, kind)


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def compile_for(card: Card, wanted: Iterable[Shape], threads: int = 1) -> Iterator[Use]:
    """Compile the kernels of these shapes, each once, and yield what each asks for.

    Args:
        card: what to compile for.
        wanted: names of shapes, and work that launches kernels.
        threads: kernels at a time; most of a compilation is C++ that releases Python's lock.
    """
    for shape, compiled in programs(card, wanted, threads):
        yield _use(shape, compiled.metadata, compiled.asm["cubin"])


def compile_with_twins(card: Card, wanted: Iterable[Shape]) -> Iterator[tuple[int, Use]]:
    """Compile as `compile_for` does, and assemble each program for the card's twins too; yields (arch, use)."""
    for shape, compiled in programs(card, wanted):
        yield card.arch, _use(shape, compiled.metadata, compiled.asm["cubin"])
        for arch in TWINS.get(card.arch, ()):
            yield arch, _use(shape, compiled.metadata, assembled(compiled.asm["ptx"], card.arch, arch))


def programs(card: Card, wanted: Iterable[Shape], threads: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield (shape, what Triton compiled) of each kernel, each program once; arguments as of `compile_for`."""
    jobs: dict[Hashable, tuple[str, Callable[[], Any]]] = {}
    seen: set[str] = set()
    before = driver._active  # asking for `active` would look for a card
    driver.set_active(NoCard(card.arch))
    launching.current_arch.cache_clear()
    try:
        for shape, work in wanted:
            for key, job in _noted_by(work).items():
                jobs.setdefault(key, (shape, job))
        with ThreadPoolExecutor(threads) as pool:
            for shape, compiled in pool.map(lambda job: (job[0], job[1]()), jobs.values()):
                if compiled.hash not in seen:  # else other numbers gave the same program
                    seen.add(compiled.hash)
                    yield shape, compiled
    finally:  # a card that is there is used again
        driver._active = before
        launching.current_arch.cache_clear()


def _noted_by(work: Callable[[], None]) -> dict[Hashable, Callable[[], object]]:
    """Return the kernels that `work` would launch, and how each is compiled."""
    launching._noted = {}
    try:
        work()
        return launching._noted
    finally:
        launching._noted = None


def assembled(ptx: str, arch: int, twin: int) -> bytes:
    """Assemble a program that was compiled for one kind of card for another, as Triton does."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.ptx", Path(folder) / "a.cubin"
        source.write_text(ptx.replace(f".target sm_{arch}", f".target sm_{twin}"))
        command = ["-lineinfo", f"--gpu-name=sm_{twin}", str(source), "-o", str(target)]
        subprocess.run([str(_TOOLS / "ptxas"), *command], check=True, capture_output=True)
        return target.read_bytes()


_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def _use(shape: str, meta: Any, cubin: bytes) -> Use:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{word}:(\d+)", text)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    return Use(meta.name, shape, meta.shared, registers, stack, 32 * meta.num_warps)


def check(card: Card, only_sample: bool, threads: int) -> list[dict[str, Any]]:
    """Compile for a card, print a line a kernel, and return them as rows of a record."""
    rows = []
    for use in compile_for(card, sample() if only_sample else shapes(), threads):
        problem = use.problem(card)
        print(
            f"sm_{card.arch} {use.kernel:24s}{use.shape:20s}{use.shared_bytes / 1024:6.1f} KiB "
            f"{use.registers:4d} registers {use.spill_bytes:5d} spilled  {problem or ''}",
            flush=True,
        )
        rows.append({"card": f"sm_{card.arch}"} | use._asdict() | {"problem": problem})
    return rows


def main() -> int:
    """Print a line a kernel and what does not fit, and write the record `cards.kernels_over_limit`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archs", nargs="*", type=int, default=[card.arch for card in CARDS])
    parser.add_argument("--sample", action="store_true", help="the shapes of CI only")
    parser.add_argument("--threads", type=int, default=1, help="kernels at a time")
    parser.add_argument("--out", type=Path, help="write a record cards-YYYYMMDD.json into this folder")
    options = parser.parse_args()
    cards = [card for card in CARDS if card.arch in options.archs]
    rows = [row for card in cards for row in check(card, options.sample, options.threads)]
    failed = sum(row["problem"] is not None for row in rows)
    print(f"{failed} of {len(rows)} kernels over a limit")
    if options.out and not options.sample and len(options.archs) == len(CARDS):
        from benchmarks.record import headline, write_record

        line = headline("cards.kernels_over_limit", failed, "kernels", 0, f"of {len(rows)} compiled")
        print(write_record("cards", rows, [line], options.out, device="none: compiled for six kinds of card"))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
