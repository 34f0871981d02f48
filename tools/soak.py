"""Soak: train, evaluate, drift in a loop on synthetic data, with random faults from a seed, on one Ray that stays up.

    python -m tools.soak --minutes 30 --seed 1

Each round trains a run with one fault, checks what the promise of that fault says, evaluates it, and reports drift.
After each round it looks at what could leak: memory of this process and of Ray's daemons, file handles, actors,
placement groups, object store; a thread looks at memory every 5 s, so that a slope has hundreds of points. Prints a
row a round and a table at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import tests.conftest  # noqa: F401  (sets Ray's environment before it is imported)

FAULTS = ("none", "kill", "runtime", "bug", "nan", "skip", "torn", "draft", "stale-lease", "shard")
WARM_ROUNDS = 1
"""Rounds before memory is counted: imports and pools fill up."""
SAMPLE_S = 5.0
"""Seconds between two looks at memory."""


@dataclass
class Round:
    """One row of the table."""

    round: int
    minute: float
    fault: str
    workers: int
    promise: bool
    """Whether the promise of the fault held."""
    recovery_s: float | None
    """From the fault to the next training step."""
    train_s: float
    evaluate_s: float
    drift_s: float
    rss_mib: float
    """Resident memory of this process (the driver)."""
    daemons_mib: float
    """Resident memory of Ray's processes that live as long as the cluster: GCS server and raylet."""
    processes: int
    """Processes below the raylet: workers and agents, idle ones too."""
    handles: int
    """Open file handles of this process."""
    actors: int
    """Actors that are alive."""
    groups: int
    """Placement groups that are not removed."""
    store_mib: float
    """Object store in use."""


def rss_mib(pid: int | str) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def children(parent: str) -> list[tuple[str, str]]:
    """Return id and program name of a process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            if (entry / "stat").read_text().rpartition(")")[2].split()[1] == parent:
                program = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
                found.append((entry.name, Path(program).name))
    return found


def daemons() -> dict[str, str]:
    """Return the ids of this process's GCS server and raylet, by name."""
    mine = children(str(os.getpid()))
    return {name: pid for pid, name in mine if name in ("gcs_server", "raylet")}


@contextmanager
def sampled(began: float) -> Iterator[list[dict[str, float]]]:
    """Look at memory every `SAMPLE_S` during the block; yields the growing list of what was seen."""
    samples: list[dict[str, float]] = []
    over, pids = threading.Event(), daemons().values()

    def look() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(
                {
                    "minute": (time.monotonic() - began) / 60,
                    "rss_mib": rss_mib("self"),
                    "daemons_mib": sum(rss_mib(pid) for pid in pids),
                    "handles": len(os.listdir("/proc/self/fd")),
                }
            )

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def leaks() -> dict[str, Any]:
    """Look at everything that could grow."""
    import ray
    from ray._private.state import state

    gc.collect()
    total, free = ray.cluster_resources(), ray.available_resources()
    store = total["object_store_memory"] - free.get("object_store_memory", 0.0)
    groups = ray.util.placement_group_table().values()
    return {
        "rss_mib": rss_mib("self"),
        "daemons_mib": sum(rss_mib(pid) for pid in daemons().values()),
        "processes": len(children(daemons()["raylet"])),
        "handles": len(os.listdir("/proc/self/fd")),
        "actors": sum(actor["State"] == "ALIVE" for actor in state.actor_table(None).values()),
        "groups": sum(group["state"] != "REMOVED" for group in groups),
        "store_mib": store / 2**20,
    }


def train_round(
    data: Path, run: Path, fault: str, workers: int, rng: np.random.Generator
) -> tuple[bool, float | None]:
    """Train a run with a fault; returns whether the promise held, and the recovery time."""
    from ss4rec.cluster.placement import preflight
    from ss4rec.data.batches.source import LocalSource
    from ss4rec.data.prepared.folder import PreparedFolder
    from ss4rec.errors import DataError, NonFiniteError, SS4RecError
    from ss4rec.runs import checkpoint
    from ss4rec.runs.folder import RunFolder
    from ss4rec.train import ray_train
    from tests.faults.inject import Fault, recovery_s, with_faults
    from tests.faults.small import small

    config = small(**{"resources.workers": workers, "train.skip_bad_steps": int(fault == "skip")})
    folder, flags = RunFolder(run), run.parent / "flags"
    source = LocalSource(data, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    total = config.train.epochs * source.steps_per_epoch(0)
    flags.mkdir()
    folder.start(config, PreparedFolder.open(data))
    honest = ray_train._work
    step, rank = int(rng.integers(2, total - 1)), int(rng.integers(workers))
    kind = {"skip": "nan"}.get(fault, fault)
    hits = [Fault(kind, rank, step)] if kind in ("kill", "runtime", "bug", "nan") else []

    def fit(data: Path = data) -> int:
        placement = preflight(config.resources, ray_data=False)
        return ray_train.fit(config, data, run, placement)["global_step"]

    try:
        ray_train._work = with_faults(honest, hits, flags)
        if fault in ("bug", "nan"):
            wanted = NonFiniteError if fault == "nan" else SS4RecError
            if not _refuses(wanted, fit):
                return False, None
            ray_train._work = honest
            held = checkpoint.last(folder.checkpoints)[0].global_step == step
            return held and fit() == total, None
        if fault == "shard":
            damaged = _truncated_shard(data, run.parent / "damaged", rng)
            return _refuses(DataError, lambda: fit(damaged)) and fit() == total, None
        steps = fit()
        if fault in ("torn", "draft", "stale-lease"):
            _damage(folder, fault, rng)
            steps = fit()
        return steps == total, recovery_s(flags)
    finally:
        ray_train._work = honest


def _refuses(wanted: type[Exception], action: Callable[[], object]) -> bool:
    """Return whether the action ends with the wanted error."""
    with suppress(wanted):
        action()
        return False
    return True


def _truncated_shard(data: Path, copy: Path, rng: np.random.Generator) -> Path:
    """Copy a prepared folder and cut one of its shards."""
    shutil.copytree(data, copy)
    shard = Path(str(rng.choice(sorted(map(str, copy.glob("shards/*.parquet"))))))
    os.truncate(shard, int(rng.integers(shard.stat().st_size)))
    return copy


def _damage(folder: Any, fault: str, rng: np.random.Generator) -> None:
    """Leave behind what a crash or a disk leaves."""
    newest = max(folder.checkpoints.glob("step-*"))
    if fault == "torn":
        path = newest / str(rng.choice(["model.safetensors", "training.safetensors", "state.json"]))
        raw = path.read_bytes()
        path.write_bytes(raw[: int(rng.integers(len(raw)))])
    elif fault == "draft":
        newest.rename(newest.with_name(f".writing-{newest.name}"))
    else:
        lease = {"attempt": "dead", "machine": "", "pid": 2**22 + 1, "born": 1, "writer": ""}
        from ss4rec.runs.lease import _machine

        (folder.path / "lease.json").write_text(json.dumps(lease | {"machine": _machine()}))


def one_round(
    base: Path, number: int, fault: str, workers: int, rng: np.random.Generator, began: float
) -> Round:
    """Train with a fault, evaluate, report drift, look for leaks; an error is a promise that did not hold."""
    from drift.config import DriftConfig
    from drift.job import run_drift
    from ss4rec.evaluation.report import evaluate_run

    work = base / f"round-{number}"
    work.mkdir()
    drift = DriftConfig(permutations=100, bootstrap=20, min_users=5, workers=1)
    clock, held, recovery = [time.monotonic()], False, None
    try:
        held, recovery = train_round(base / "data", work / "run", fault, workers, rng)
        clock.append(time.monotonic())
        evaluate_run(work / "run", base / "data", split="test")
        clock.append(time.monotonic())
        run_drift(base / "split", None, work / "drift", drift)
        clock.append(time.monotonic())
    except Exception:
        traceback.print_exc()
        held = False
    shutil.rmtree(work)
    times = np.diff(clock).tolist()
    minute = (time.monotonic() - began) / 60
    return Round(number, minute, fault, workers, held, recovery, *times, *[0.0] * (3 - len(times)), **leaks())


def soak(minutes: float, seed: int) -> tuple[list[Round], list[dict[str, float]]]:
    """Run rounds until `minutes` have passed, at least one; returns them and the samples of memory."""
    import ray

    from ss4rec.cluster.connect import quiet_ray
    from ss4rec.data.prepare.engine import prepare
    from ss4rec.data.split import split
    from ss4rec.data.synth.generate import synth

    rng = np.random.default_rng(seed)
    rounds: list[Round] = []
    order: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ss4rec-soak-") as folder:
        base = Path(folder)
        synth(base / "csv", users=150, items=120, mean_len=26, seed=seed, fmt="csv")
        manifest = prepare(base / "csv", base / "data", k_core=0)
        split(base / "data", base / "split", (manifest.first_time_s + manifest.last_time_s) // 2)
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            namespace="ss4rec",
            logging_level="ERROR",
            log_to_driver=False,
        )
        quiet_ray()
        began = time.monotonic()
        try:
            with sampled(began) as samples:
                while not rounds or time.monotonic() - began < 60 * minutes:
                    # Each fault before one comes again.
                    order = order or [str(fault) for fault in rng.permutation(FAULTS)]
                    fault, workers = order.pop(), int(rng.integers(1, 3))
                    rounds.append(one_round(base, len(rounds), fault, workers, rng, began))
                    print(line(rounds[-1]), flush=True)
        finally:
            ray.shutdown()
    return rounds, samples


def line(row: Round) -> str:
    """Return a row of the table."""
    cells = [getattr(row, field.name) for field in fields(row)]
    return "  ".join(f"{c:.1f}" if isinstance(c, float) else "-" if c is None else str(c) for c in cells)


def slope_per_minute(samples: list[dict[str, float]], name: str, since: float) -> float | None:
    """Return the least-squares slope of a figure over minutes, from minute `since`; None for fewer than 10 samples."""
    rows = [row for row in samples if row["minute"] >= since]
    if len(rows) < 10:
        return None
    return float(np.polyfit([row["minute"] for row in rows], [row[name] for row in rows], 1)[0])


def summary(rounds: list[Round], samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return the table at the end; slopes from the end of the warm-up, and from the middle of what follows it."""
    recoveries = [row.recovery_s for row in rounds if row.recovery_s is not None]
    counted = rounds[WARM_ROUNDS - 1 :]
    warm, end = counted[0].minute, counted[-1].minute
    slopes = {
        f"{name}_slope_mib_per_min{part}": slope_per_minute(samples, f"{name}_mib", since)
        for name in ("rss", "daemons")
        for part, since in (("", warm), ("_second_half", (warm + end) / 2))
    }
    grown = {
        name: getattr(counted[-1], name) - getattr(counted[0], name)
        for name in ("processes", "handles", "actors", "groups", "store_mib")
    }
    return {
        "rounds": len(rounds),
        "minutes": round(end, 1),
        "samples": len(samples),
        "promises_held": sum(row.promise for row in rounds),
        "faults": {fault: sum(row.fault == fault for row in rounds) for fault in FAULTS},
        "recovery_median_s": float(np.median(recoveries)) if recoveries else None,
        "recovery_max_s": max(recoveries, default=None),
        **slopes,
        **{f"{name}_grown": value for name, value in grown.items()},
    }


def main() -> None:
    """Parse options, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write rounds and summary as JSON")
    options = parser.parse_args()
    print("  ".join(field.name for field in fields(Round)))
    rounds, samples = soak(options.minutes, options.seed)
    table = summary(rounds, samples)
    for name, value in table.items():
        print(f"{name:40} {value}")
    if options.out:
        found = {
            "seed": options.seed,
            "summary": table,
            "rounds": [asdict(row) for row in rounds],
            "samples": samples,
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if table["promises_held"] < len(rounds):
        sys.exit(1)


if __name__ == "__main__":
    main()
