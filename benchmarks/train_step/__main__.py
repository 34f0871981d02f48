"""Training speed and memory: the published computation, and ours through the real training loop.

`python -m benchmarks.train_step --data DIR` (a prepared ML-1M) prints a table and writes
`train_step-<YYYYMMDD>.json`. Rows, each in a process of its own so that memory and failures are its own:

(a) the published step rebuilt from s5-pytorch and mamba-ssm, one target a prefix (`benchmarks.train_step.official`);
(b) ours with the paper's model on ML-1M, (c) wider and deeper, (d) with larger catalogues of random histories;
(e) full softmax over 84,432 items and 50,000 targets, forward and backward, against its three bare matrix products;
(f) `ml_20m_best` with ML-20M's catalogue: targets a second, and the share of the H100's bf16 matrix rate.

Ours are read from the run's own status lines once they are steady (`benchmarks.train_step.steady`). The next row's process
starts and imports while a row is measured, and waits for its turn before it touches the device.
`--smoke` does the same with tiny sizes on any device; without mamba-ssm a linear map stands in for its layer.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click
import torch

from benchmarks.record import headline, write_record
from benchmarks.timing import side_stream, time_calls
from benchmarks.train_step.official import Shape, mamba, time_official
from benchmarks.train_step.steady import make_catalogue, train_steady
from ss4rec.auto.cost import H100, products_per_token
from ss4rec.cli.options import resolve_config
from ss4rec.config import LossConfig
from ss4rec.kernels import resolve_loss_backend
from ss4rec.model.losses import cross_entropy

OFFICIAL, PAPER, SOFTMAX = "(a) published", "(b) paper's model", "(e) softmax, 84,432 items"
WIDE = "(f) ml_20m_best, 26,744 items"
OURS: dict[str, tuple[str, ...]] = {
    PAPER: (),
    "(c) d 128, 3 blocks": ("model.dim=128", "model.blocks=3"),
    "(c) d 128, 4 blocks": ("model.dim=128", "model.blocks=4"),
    "(c) d 256, 3 blocks": ("model.dim=256", "model.blocks=3"),
    "(c) d 256, 4 blocks": ("model.dim=256", "model.blocks=4"),
    "(d) 26,744 items": (),
    "(d) 84,432 items": (),
    WIDE: ("model.item_attributes=false",),
}
"""Overrides of a preset's configuration by row: `ml_20m_best` for the last, the paper's for all others."""
CATALOGUES = {"(d) 26,744 items": 26_744, "(d) 84,432 items": 84_432, WIDE: 26_744}
ROWS = (OFFICIAL, *[name for name in OURS if name != WIDE], SOFTMAX, WIDE)
SOFTMAX_TOKENS, SOFTMAX_ITEMS = 50_000, 84_432
DEFAULTS = ("train.precision=bf16", "train.batch_size=256")
GIB = 2**30
SHOWN = ("data_wait_share", "spread", "ratio_to_products", "products_ms", "share_of_matrix_rate")


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="Prepared ML-1M; a smoke test makes its own.")
@click.option("--row", "only", multiple=True, type=click.Choice(ROWS), help="Only these rows.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override for (b) to (d).")
@click.option(
    "--seconds", default=6.0, show_default=True, help="Training of a row; up to three times if unsteady."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="Tiny sizes, any device; the record is called train_step-smoke.")
@click.option("--result", type=click.Path(path_type=Path), hidden=True, help="Be the process of one row.")
def main(
    data: Path | None,
    only: tuple[str, ...],
    assignments: tuple[str, ...],
    seconds: float,
    out: Path,
    smoke: bool,
    result: Path | None,
) -> None:
    """Measure all rows, or be the process that measures one."""
    if result is not None:
        measure(only[0], data, assignments, seconds, smoke, result)
        return
    if data is None and not smoke:
        raise click.UsageError("--data is missing; make one with `ss4rec data prepare`")
    common = [*(f"--set={text}" for text in assignments), f"--seconds={seconds}"]
    common += ["--smoke"] * smoke + ([] if data is None else [f"--data={data}"])
    rows = run_processes([name for name in ROWS if name in (only or ROWS)], common)
    found = headlines(rows)
    path = write_record("train_step-smoke" if smoke else "train_step", list(rows.values()), found, out)
    for entry in found:
        print(f"{entry['name']} {entry['value']:.4g} {entry['unit']} (goal {entry['goal']})")
    print(path)


def run_processes(names: list[str], options: list[str]) -> dict[str, dict[str, Any]]:
    """Measure rows one after the other; each process is started while the one before it is measured."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="train-step-") as temporary:
        folders = [Path(temporary) / str(number) for number in range(len(names))]
        waiting = [_start(name, folder, options) for name, folder in zip(names[:1], folders, strict=False)]
        for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
            child = waiting.pop()
            began = time.monotonic()
            with suppress(BrokenPipeError):  # it ended before its turn; its log says why
                _stdin(child).write("go\n")
                _stdin(child).flush()
            if number + 1 < len(names):
                waiting.append(_start(names[number + 1], folders[number + 1], options))
            child.wait()
            rows[name] = {"row": name, **_outcome(folder), "wall_s": round(time.monotonic() - began, 1)}
            _show(rows[name])
    return rows


def _start(name: str, folder: Path, options: list[str]) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.train_step", f"--row={name}", f"--result={folder / 'result.json'}"]  # fmt: skip
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, text=True
        )


def _stdin(child: subprocess.Popen[str]) -> TextIO:
    assert child.stdin is not None
    return child.stdin  # type: ignore[return-value]


def _outcome(folder: Path) -> dict[str, Any]:
    """Return what a process measured, or the end of what it said."""
    if (folder / "result.json").exists():
        figures: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return figures
    return {"error": (folder / "log").read_text()[-600:]}


def measure(
    name: str,
    data: Path | None,
    assignments: tuple[str, ...],
    seconds: float,
    smoke: bool,
    result: Path,
) -> None:
    """Get ready, wait for a line on standard input, measure one row, and write its figures to `result`."""
    folder = result.parent
    if name in CATALOGUES or (smoke and name in OURS):
        sizes = {"items": 120, "users": 40, "length": 20} if smoke else {"items": CATALOGUES[name]}
        data = make_catalogue(folder / "data", **sizes)
    for package in ("triton", "s5", "mamba_ssm") if name == OFFICIAL else ("triton",):
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)
    sys.stdin.readline()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == OFFICIAL:
        figures = measure_official(device, smoke)
    elif name == SOFTMAX:
        sizes = (64, 120, 8) if smoke else (SOFTMAX_TOKENS, SOFTMAX_ITEMS, 64)
        figures = measure_softmax(*sizes, device=device)
    else:
        if data is None:
            raise click.UsageError("--data is missing")
        small = ("data.max_len=16", "data.overlap=4", "train.batch_size=8") if smoke else ()
        preset = "ml_20m_best" if name == WIDE else "paper"
        config = resolve_config(preset, (*DEFAULTS, *small, *OURS[name], *assignments))
        figures = train_steady(config, data, folder / "run", device, seconds)
        if "targets_per_s" in figures:
            rate = products_per_token(config, figures["items"]) * figures["targets_per_s"]
            figures["share_of_matrix_rate"] = rate / H100.products
    result.write_text(json.dumps(figures))


def measure_official(device: torch.device, smoke: bool) -> dict[str, Any]:
    """Time the published step."""
    if not smoke:
        return time_official(Shape(), device, warm_up=10, steps=30)
    make = mamba if device.type == "cuda" else lambda shape: torch.nn.Linear(shape.dim, shape.dim)
    shape = Shape(items=50, dim=16, time_states=4, relation_states=4, length=12, batch=4)
    return time_official(shape, device, warm_up=1, steps=2, make_relation=make)


def measure_softmax(tokens: int, items: int, dim: int, *, device: torch.device) -> dict[str, Any]:
    """Time full-softmax cross entropy, forward and backward under bf16 autocast, and its bare matrix products.

    The products are H Wᵀ, G W and Gᵀ H in bf16 for as many targets at a time as the plain loss takes by default, with a
    G that is there already; nothing else is done between them. What they write and read (G alone is 8.4 GB) is part of
    their time, so a loss that keeps logits in registers may be faster.
    """
    torch.manual_seed(0)
    chunk = LossConfig().chunk_tokens
    hidden_TD = torch.randn(tokens, dim, device=device).requires_grad_()
    weight_VD = (0.02 * torch.randn(items + 1, dim, device=device)).requires_grad_()
    targets_T = torch.randint(1, items + 1, (tokens,), device=device)

    rows_R = torch.arange(tokens, device=device)
    backend = resolve_loss_backend("auto", device)

    def loss() -> tuple[torch.Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16):
            total = cross_entropy(hidden_TD, weight_VD, targets_T, rows_R, backend=backend)
        return torch.autograd.grad(total / tokens, [hidden_TD, weight_VD])

    narrow_TD, narrow_VD = (x.detach().to(torch.bfloat16) for x in (hidden_TD, weight_VD[1:]))

    def products() -> None:
        for first in range(0, tokens, chunk):
            part_CD = narrow_TD[first : first + chunk]
            part_CV = grad_CV[: len(part_CD)]
            part_CD @ narrow_VD.T
            part_CV @ narrow_VD
            part_CV.T @ part_CD

    with side_stream():
        loss()
        peak = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            loss()
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() / GIB
        ours = time_calls([loss])
        grad_CV = torch.randn(min(chunk, tokens), items, device=device, dtype=torch.bfloat16)
        bare = time_calls([products])
    return {
        "step_ms": ours.ms, "targets_per_s": tokens / ours.ms * 1e3, "memory_gib": peak, "items": items,
        "batch": f"{tokens} targets", "precision": "bf16", "dim": dim, "backend": backend, "products_ms": bare.ms,
        "ratio_to_products": ours.ms / bare.ms, "timing": asdict(ours), "products_timing": asdict(bare),
    }  # fmt: skip


def _show(row: Mapping[str, Any]) -> None:
    """Print a row."""
    if "error" in row:
        print(f"{row['row']:26s} FAILED after {row['wall_s']} s: {row['error']}", flush=True)
        return
    memory = "" if row.get("memory_gib") is None else f"{row['memory_gib']:6.2f} GiB  "
    extra = {name: row[name] for name in SHOWN if name in row}  # fmt: skip
    figures = "  ".join(f"{name} {value:.3f}" for name, value in extra.items())
    print(
        f"{row['row']:26s} {row.get('targets_per_s', 0):13,.0f} targets/s  {row.get('step_ms', 0):8.2f} ms  {memory}"
        f"{figures}  {row['batch']}  {row['precision']}{'' if row.get('steady', True) else '  NOT STEADY'}  "
        f"(row took {row['wall_s']} s)",
        flush=True,
    )


def headlines(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures that the goals are about, of the rows that gave one."""
    official, paper, softmax, wide = (rows.get(name, {}) for name in (OFFICIAL, PAPER, SOFTMAX, WIDE))
    found = []
    if "targets_per_s" in wide:
        shape = "ml_20m_best, 26,744 items"
        found += [
            headline("scale.wide_targets_per_s", wide["targets_per_s"], "targets/s", 2e6, shape),
            headline("scale.wide_mfu", wide["share_of_matrix_rate"], "share", 0.15, "989 TFLOP/s of bf16 products"),
        ]  # fmt: skip
    if "targets_per_s" in paper:
        found += [
            headline("train_step.targets_per_s", paper["targets_per_s"], "targets/s", 4e6, "paper's model, ML-1M"),
            headline("train_step.peak_gib", paper["memory_gib"], "GiB", 4.0, "allocated by torch, paper's model"),
        ]  # fmt: skip
        if "targets_per_s" in official:
            ratio = paper["targets_per_s"] / official["targets_per_s"]
            peer = f"published computation: {official['targets_per_s']:,.0f} targets/s, {official['step_ms']:.1f} ms"
            found.append(headline("train_step.ratio_to_official", ratio, "times", 300, peer))
    if "ratio_to_products" in softmax:
        peer = f"three bare matrix products: {softmax['products_ms']:.1f} ms"
        found.append(headline(
            "train_step.full_softmax_84k_ratio_to_matmul", softmax["ratio_to_products"], "time ratio", 2.0, peer
        ))  # fmt: skip
    return found


if __name__ == "__main__":
    main()
