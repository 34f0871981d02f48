"""Compiles every Triton kernel for cards that are not there, and prints what each program asks of its card.

    PYTHONPATH=.venv/triton python -m tools.cards [ARCH ...]      (no GPU is needed)

One line a kernel and shape: shared memory, registers a thread, bytes of spills a thread. Exit code 1 if a card cannot
start one of them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator
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
WIDTHS = (64, 128, 256, 512)


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


def _time(states: int, kind: torch.dtype, sequences: int, gap_map: bool) -> None:
    from ss4rec.kernels.time_triton import time_scan

    drive_T2P = torch.zeros(2 * sequences, 2 * states, dtype=kind, requires_grad=True)
    gaps_T = torch.zeros(2 * sequences, requires_grad=gap_map)
    parameters = [torch.zeros(states, requires_grad=True) for _ in range(5 if gap_map else 3)]
    segments = Segments.from_lengths([2] * sequences)
    time_scan(drive_T2P, gaps_T, *parameters[:3], segments, *parameters[3:]).sum().backward()


def _relation(states: int, kind: torch.dtype) -> None:
    from ss4rec.kernels.relation_triton import selective_scan

    u_TE, delta_TE, z_TE = (torch.zeros(16, 128, dtype=kind, requires_grad=True) for _ in range(3))
    B_TN, C_TN = (torch.zeros(16, states, dtype=kind, requires_grad=True) for _ in range(2))
    A_EN, D_E, bias_E = (torch.zeros(128, states), torch.zeros(128), torch.zeros(128))
    selective_scan(
        u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, bias_E, Segments.from_lengths([8, 8])
    ).sum().backward()


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


def shapes() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the shapes that presets, `auto` and sensible fields ask for: a name, and work that launches kernels.

    Other widths, states and taps use no more of a card than those that are here.
    """
    for kind in (torch.bfloat16, torch.float32):
        name = str(kind).removeprefix("torch.")
        for dim in WIDTHS:
            yield f"{name} {dim} held", lambda dim=dim, kind=kind: _softmax(dim, kind, True)
        yield f"{name} 64 plain", lambda kind=kind: _softmax(64, kind, False)
        for dim in (64, 512):
            yield f"{name} {dim} layers", lambda dim=dim, kind=kind: _layers(dim, kind)
        yield f"{name} N 32", lambda kind=kind: _relation(32, kind)
    for states, sequences in ((32, 4096), (64, 256), (16, 1)):
        yield (
            f"bfloat16 P {states}",
            lambda states=states, count=sequences: _time(states, torch.bfloat16, count, True),
        )
    yield "float32 P 32", lambda: _time(32, torch.float32, 4096, True)
    yield "bfloat16 N 64", lambda: _relation(64, torch.bfloat16)
    for taps in (4, 8):
        yield f"bfloat16 taps {taps}", lambda taps=taps: _conv(taps, torch.bfloat16)


def compile_for(card: Card, only: str = "") -> Iterator[Use]:
    """Compile the kernels of all shapes with `only` in their names, and yield what each asks for."""
    seen: set[object] = set()
    before = driver._active  # asking for `active` would look for a card
    driver.set_active(NoCard(card.arch))
    launching.current_arch.cache_clear()
    try:
        for shape, work in shapes():
            if only in shape:
                noted = _noted_by(work)
                yield from (_use(shape, noted[key]()) for key in noted.keys() - seen)
                seen |= noted.keys()
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


def _use(shape: str, compiled: Any) -> Use:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{word}:(\d+)", text)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    meta = compiled.metadata
    return Use(meta.name, shape, meta.shared, registers, stack, 32 * meta.num_warps)


def main(archs: list[int]) -> int:
    """Print a line a kernel, and what does not fit."""
    failed = 0
    for card in CARDS:
        if archs and card.arch not in archs:
            continue
        for use in compile_for(card):
            problem = use.problem(card)
            failed += problem is not None
            print(
                f"sm_{card.arch} {use.kernel:24s}{use.shape:20s}{use.shared_bytes / 1024:6.1f} KiB "
                f"{use.registers:4d} registers {use.spill_bytes:5d} spilled  {problem or ''}",
                flush=True,
            )
    print(f"{failed} kernels over a limit")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
