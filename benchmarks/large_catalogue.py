"""Training with millions of items: all rows of the item table at each step, or the rows that a step touches.

`python -m benchmarks.large_catalogue [--items 10000000] [--dim 64 --dim 128]` takes the training step itself (sampled
softmax, bf16, CUDA graphs) on batches that it makes, needs no data and no Ray, prints a table and writes
`large_catalogue-<YYYYMMDD>.json`. For each catalogue and width, both ways in one process:

- the course of the loss over `--steps` steps on the same batches, in which half of the items follow from the one before
  and popularity is as 1 / rank; without dropout, so that both ways draw the same negatives. Once more
  with all rows and first weights that differ in their last digits: what rounding does in bf16;
- targets a second and peak memory on random items, all popular alike: most rows of a step are different ones.

`--profile` prints where a step's time goes. `--smoke` uses tiny sizes on any device.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from benchmarks.record import headline, write_record
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.batch import PackedBatch
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset
from ss4rec.train.fixed_shapes import Stager, StepInputs
from ss4rec.train.group import Workers
from ss4rec.train.loop import seed_step
from ss4rec.train.objective import Objective
from ss4rec.train.prefetch import DeviceBatch
from ss4rec.train.step import TrainStep, choose_graphs
from ss4rec.train.worker import set_up_torch

GIB = 2**30
WAYS = ("all", "touched")
GOALS = {64: 3e6, 128: 2e6}
"""Targets a second with 10 million items, by width."""
WARM_UP, DIFFERENT = 10, 16
"""Steps before those that are timed, and batches that come in turn."""
GROUP = 25
"""Steps over which losses are averaged before they are compared."""


@click.command(help=__doc__)
@click.option("--items", multiple=True, type=int, default=(10_000_000,), show_default=True)
@click.option("--dim", "dims", multiple=True, type=int, default=(64, 128), show_default=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS, show_default=True)
@click.option("--negatives", default=8192, show_default=True, help="Drawn items a step.")
@click.option("--windows", default=256, show_default=True, help="Windows a step.")
@click.option("--length", default=160, show_default=True, help="Targets of a window.")
@click.option("--steps", default=300, show_default=True, help="Steps of the loss's course.")
@click.option("--timed", default=100, show_default=True, help="Steps that are timed, after ten others.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--profile", is_flag=True, help="Print the kernels of a step by their time.")
@click.option("--smoke", is_flag=True, help="Tiny sizes, any device.")
def main(
    items: tuple[int, ...],
    dims: tuple[int, ...],
    ways: tuple[str, ...],
    negatives: int,
    windows: int,
    length: int,
    steps: int,
    timed: int,
    out: Path,
    profile: bool,
    smoke: bool,
) -> None:
    """Measure every catalogue and width, both ways."""
    if smoke:
        items, dims, negatives, windows, length, steps, timed = (3000,), (16,), 64, 4, 12, GROUP, 3
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    rows = []
    for count in items:
        for dim in dims:
            sizes = (count, windows, length)
            courses = {}
            for way in ways:
                config = settings(dim, negatives, windows, length, way)
                row, courses[way] = measure(config, sizes, steps, timed, device, profile)
                rows.append(row)
                show(row)
            if len(courses) == len(WAYS):
                rows[-1] |= compare(courses["all"], courses["touched"])
                again = settings(dim, negatives, windows, length, "all")
                _, shaken = measure(again, sizes, steps, 0, device, shake=True)
                rows[-1]["shaken_difference"] = compare(courses["all"], shaken)["largest_difference"]
                print(
                    f"loss of the last {GROUP} steps: all {rows[-1]['loss_all']:.5f}, touched "
                    f"{rows[-1]['loss_touched']:.5f}; largest difference of {GROUP} steps "
                    f"{rows[-1]['largest_difference']:.5%}; all rows begun with weights 1 + 1e-7 times as large: "
                    f"{rows[-1]['shaken_difference']:.5%}",
                    flush=True,
                )
    found = headlines(rows)
    for entry in found:
        print(f"{entry['name']} {entry['value']:.4g} {entry['unit']} (goal {entry['goal']})")
    print(write_record("large_catalogue-smoke" if smoke else "large_catalogue", rows, found, out))


def settings(dim: int, negatives: int, windows: int, length: int, way: str) -> RunConfig:
    """Return the paper's model with the sampled softmax."""
    changes = {
        "model.dim": dim, "model.dropout": 0.0, "loss.kind": "sampled_softmax", "loss.negatives": negatives,
        "data.max_len": length, "data.overlap": 0, "train.batch_size": windows, "train.precision": "bf16",
        "optim.item_updates": way,
    }  # fmt: skip
    return override(preset("paper"), changes)


def measure(
    config: RunConfig,
    sizes: tuple[int, int, int],
    steps: int,
    timed: int,
    device: torch.device,
    profile: bool = False,
    shake: bool = False,
) -> tuple[dict[str, Any], np.ndarray]:
    """Train in one way; return its figures and the loss of every step.

    `shake` changes the first weights in their last digits: how far the loss then goes astray is what rounding can do.
    """
    began = time.monotonic()
    if device.type == "cuda":  # what a graph works in is counted while it is captured
        torch.cuda.reset_peak_memory_stats()
    items, windows, length = sizes
    step, stager = make_step(config, items, device)
    if shake:
        with torch.no_grad():
            step.model.members[0].embedding.weight.mul_(1 + 1e-7)
    course = [train(step, batch, n) for n, batch in enumerate(batches(sizes, steps, True, stager, device))]
    losses = torch.stack(course).cpu().numpy()
    made = list(batches(sizes, DIFFERENT, False, stager, device))
    first = now(device)
    for n in range(WARM_UP + timed):
        if n == WARM_UP:
            first = now(device)
        train(step, made[n % DIFFERENT], steps + n)
    step_s = (now(device) - first) / max(1, timed)
    if profile:
        show_profile(step, made[:5], steps + WARM_UP + timed)
    row = {
        "row": f"{items:,} items, width {config.model.dim}, {config.optim.item_updates}",
        "items": items, "dim": config.model.dim, "way": config.optim.item_updates,
        "targets_per_s": windows * length / step_s, "step_ms": 1e3 * step_s,
        "memory_gib": torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None,
        "negatives": config.loss.negatives, "batch": f"{windows} windows of {length}", "wall_s": time.monotonic() - began,
    }  # fmt: skip
    del step, made
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row, losses


def now(device: torch.device) -> float:
    """Return the time once the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(step: TrainStep, batch: DeviceBatch, number: int) -> torch.Tensor:
    """Take a step and return its loss."""
    seed_step(0, number, 0)
    step(batch, number, 1e-3)
    return step.loss.clone()


def make_step(config: RunConfig, items: int, device: torch.device) -> tuple[TrainStep, Stager | None]:
    """Return the training step of a model whose item table is made on the device."""
    set_up_torch(config, device)
    seed_step(0, 0, 0)
    model = SS4Rec(config.model, 1)
    model.embedding = nn.Embedding(items + 1, config.model.dim, padding_idx=0, device=device)
    model.num_items = items
    with torch.no_grad():
        model.embedding.weight.mul_(config.model.init_std)
    objective = Objective(model, config.loss).to(device).train()
    graphs = choose_graphs(config, objective, device)
    stager = Stager(config.train.batch_size, config.data.max_len) if graphs else None
    step = TrainStep(config, objective, Workers(0, 1, device), stager)
    batch = next(batches((items, config.train.batch_size, config.data.max_len), 1, True, stager, device))
    step.compile_kernels(batch)
    return step, stager


def batches(
    sizes: tuple[int, int, int],
    count: int,
    learnable: bool,
    stager: Stager | None,
    device: torch.device,
) -> Iterator[DeviceBatch]:
    """Yield batches, the same ones at every call."""
    for number in range(count):
        yield on_device(packed(sizes, number, learnable), stager, device)


def packed(sizes: tuple[int, int, int], seed: int, learnable: bool) -> PackedBatch:
    """Return windows of the same length in which every event has a target."""
    items, windows, length = sizes
    rng = np.random.default_rng([seed, learnable])
    shape = (windows, length + 1)
    if learnable:
        history = np.exp(rng.random(shape) * np.log(items)).astype(np.int64).clip(1, items)
        follows = rng.random(shape) < 0.5
        for place in range(1, length + 1):  # the popular ones are seen often enough to be learned
            after = (7 * history[:, place - 1] + 3) % items + 1
            history[:, place] = np.where(follows[:, place], after, history[:, place])
    else:
        history = rng.integers(1, items + 1, shape)
    tokens = windows * length
    gaps = np.exp(rng.random(tokens) * 12).astype(np.float32)
    return PackedBatch(
        users_S=torch.arange(windows),
        items_T=torch.from_numpy(history[:, :-1].ravel()),
        targets_T=torch.from_numpy(history[:, 1:].ravel()),
        gaps_T=torch.from_numpy(gaps),
        hours_T=torch.zeros(tokens, dtype=torch.int64),
        ratings_T=torch.full((tokens,), 4.0),
        profiles_TF=torch.zeros(tokens, 0, dtype=torch.int64),
        offsets_S1=torch.arange(windows + 1) * length,
        rows_R=torch.arange(tokens),
    )


def on_device(batch: PackedBatch, stager: Stager | None, device: torch.device) -> DeviceBatch:
    """Bring a batch to the device, filled up to a fixed shape where a stager is given."""
    if stager is None:
        inputs = StepInputs.of(batch.to(device), Segments(batch.offsets_S1, device))
        return DeviceBatch(0, 0, [], batch.num_targets, inputs)
    shape = stager.shape(batch)
    words_W = torch.empty(shape.words, dtype=torch.int32, pin_memory=True)
    stager.fill(batch, shape, words_W)
    words_W = words_W.to(device, non_blocking=True)
    return DeviceBatch(0, 0, [], batch.num_targets, stager.views(words_W, shape), words_W, shape)


def show_profile(step: TrainStep, made: list[DeviceBatch], first: int) -> None:
    """Print the kernels of a step by their time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for number, batch in enumerate(made, start=first):
            train(step, batch, number)
        torch.cuda.synchronize()
    total: dict[str, float] = {}
    for event in found.key_averages():
        total[event.key] = total.get(event.key, 0.0) + event.self_device_time_total / 1e3 / len(made)
    for name, ms in sorted(total.items(), key=lambda entry: -entry[1])[:30]:
        print(f"    {ms:8.3f} ms a step  {name[:110]}", flush=True)


def compare(whole: np.ndarray, touched: np.ndarray) -> dict[str, Any]:
    """Return both losses at the end, and the largest relative difference of means over `GROUP` steps."""
    groups = len(whole) // GROUP
    means = [losses[: groups * GROUP].reshape(groups, GROUP).mean(1) for losses in (whole, touched)]
    return {
        "course_all": means[0].tolist(),
        "course_touched": means[1].tolist(),
        "loss_first": float(whole[0]),
        "loss_all": float(means[0][-1]),
        "loss_touched": float(means[1][-1]),
        "largest_difference": float(np.abs(means[1] / means[0] - 1).max()),
    }


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    memory = "" if row["memory_gib"] is None else f"{row['memory_gib']:6.2f} GiB  "
    print(
        f"{row['row']:36s} {row['targets_per_s']:12,.0f} targets/s  {row['step_ms']:8.3f} ms  {memory}"
        f"(took {row['wall_s']:.1f} s)",
        flush=True,
    )


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures that the goals are about."""
    found = []
    for row in rows:
        if (row["items"], row["way"]) == (10_000_000, "touched") and row["dim"] in GOALS:
            dense = next(
                (r for r in rows if (r["items"], r["dim"], r["way"]) == (row["items"], row["dim"], "all")),
                None,
            )
            peer = "" if dense is None else f"all rows: {dense['targets_per_s']:,.0f} targets/s"
            name = f"scale.items_10m_targets_per_s{'' if row['dim'] == 64 else '_' + str(row['dim'])}"
            found.append(headline(name, row["targets_per_s"], "targets/s", GOALS[row["dim"]], peer))
    return found


if __name__ == "__main__":
    main()
