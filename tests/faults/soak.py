"""Soak: train, evaluate, drift in a loop on synthetic data, with random faults from a seed, on one Ray that stays up.

    python -m tests.faults.soak --minutes 30 --seed 1

Each round trains a run with one fault, checks what the promise of that fault says, evaluates it, and reports drift.
After each round it looks at what could leak: memory of this process and of Ray's daemons, file handles, actors,
placement groups, object store. Prints a row a round and a table at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import tests.conftest  # noqa: F401  (sets Ray's environment before it is imported)

FAULTS = ("none", "kill", "runtime", "bug", "nan", "skip", "torn", "draft", "stale-lease")
WARM_ROUNDS = 1
"""Rounds before memory is counted: imports and pools fill up."""


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


def daemons() -> list[str]:
    """Return the ids of this process's GCS server and raylet."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            name = Path((entry / "cmdline").read_bytes().split(b"\0")[0].decode()).name
            if parent == str(os.getpid()) and name in ("gcs_server", "raylet"):
                found.append(entry.name)
    return found


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
        "daemons_mib": sum(rss_mib(pid) for pid in daemons()),
        "handles": len(os.listdir("/proc/self/fd")),
        "actors": sum(actor["State"] == "ALIVE" for actor in state.actor_table(None).values()),
        "groups": sum(group["state"] != "REMOVED" for group in groups),
        "store_mib": store / 2**20,
    }


def recovery_s(flags: Path) -> float | None:
    """Return the seconds from the first fault to the first step of a worker that was started after it."""
    hit = [path.stat().st_mtime for path in flags.iterdir() if path.name != "after"]
    after = flags / "after"
    return after.stat().st_mtime - min(hit) if hit and after.exists() else None


def train_round(
    data: Path, run: Path, fault: str, workers: int, rng: np.random.Generator
) -> tuple[bool, float | None]:
    """Train a run with a fault; returns whether the promise held, and the recovery time."""
    from ss4rec import checkpoint
    from ss4rec.data.manifest import Manifest
    from ss4rec.data.source import LocalSource
    from ss4rec.errors import NonFiniteError, SS4RecError
    from ss4rec.resources import preflight
    from ss4rec.runs import RunFolder
    from ss4rec.train import ray_backend
    from tests.faults.inject import Fault, with_faults
    from tests.faults.small import small

    config = small(**{"resources.workers": workers, "train.skip_bad_steps": int(fault == "skip")})
    folder, flags = RunFolder(run), run.parent / "flags"
    source = LocalSource(data, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    total = config.train.epochs * source.steps_per_epoch(0)
    flags.mkdir()
    folder.start(config, Manifest.load(data), data)
    honest = ray_backend._work
    step, rank = int(rng.integers(2, total - 1)), int(rng.integers(workers))
    kind = {"skip": "nan"}.get(fault, fault)
    hits = [Fault(kind, rank, step)] if kind in ("kill", "runtime", "bug", "nan") else []

    def fit() -> int:
        placement = preflight(config.resources, ray_data=False)
        return ray_backend.fit(config, data, run, placement)["global_step"]

    try:
        ray_backend._work = with_faults(honest, hits, flags)
        if fault in ("bug", "nan"):
            wanted = NonFiniteError if fault == "nan" else SS4RecError
            with suppress(wanted):
                fit()
                return False, None
            ray_backend._work = honest
            held = checkpoint.last(folder.checkpoints)[0].global_step == step
            return held and fit() == total, None
        steps = fit()
        if fault in ("torn", "draft", "stale-lease"):
            _damage(folder, fault, rng)
            steps = fit()
        return steps == total, recovery_s(flags)
    finally:
        ray_backend._work = honest


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
        from ss4rec.lease import _machine

        (folder.path / "lease.json").write_text(json.dumps(lease | {"machine": _machine()}))


def soak(minutes: float, seed: int) -> list[Round]:
    """Run rounds until `minutes` have passed; at least one."""
    import ray

    from drift.config import DriftConfig
    from drift.job import run_drift
    from ss4rec.data.prepare import prepare
    from ss4rec.data.split import split
    from ss4rec.data.synth import synth
    from ss4rec.evaluation.report import evaluate_run
    from ss4rec.ray_cluster import quiet_ray

    rng = np.random.default_rng(seed)
    rounds: list[Round] = []
    order: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ss4rec-soak-") as folder:
        base = Path(folder)
        synth(base / "csv", users=150, items=120, mean_len=26, seed=seed, fmt="csv")
        manifest = prepare(base / "csv", base / "data", k_core=0)
        split(base / "data", base / "split", (manifest.first_time_s + manifest.last_time_s) // 2)
        drift = DriftConfig(permutations=100, bootstrap=20, min_users=5, workers=1)
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
            while not rounds or time.monotonic() - began < 60 * minutes:
                work = base / f"round-{len(rounds)}"
                work.mkdir()
                order = order or [
                    str(fault) for fault in rng.permutation(FAULTS)
                ]  # each before one comes again
                fault, workers = order.pop(), int(rng.integers(1, 3))
                clock = [time.monotonic()]
                held, recovery = train_round(base / "data", work / "run", fault, workers, rng)
                clock.append(time.monotonic())
                evaluate_run(work / "run", base / "data", split="test")
                clock.append(time.monotonic())
                run_drift(base / "split", None, work / "drift", drift)
                clock.append(time.monotonic())
                shutil.rmtree(work)
                minute = (time.monotonic() - began) / 60
                row = Round(
                    len(rounds), minute, fault, workers, held, recovery, *np.diff(clock).tolist(), **leaks()
                )
                rounds.append(row)
                print(line(row), flush=True)
        finally:
            ray.shutdown()
    return rounds


def line(row: Round) -> str:
    """Return a row of the table."""
    cells = [getattr(row, field.name) for field in fields(row)]
    return "  ".join(f"{c:.1f}" if isinstance(c, float) else "-" if c is None else str(c) for c in cells)


def slope_per_minute(rounds: list[Round], name: str) -> float | None:
    """Return the least-squares slope of a figure over minutes, warm-up left out; None for fewer than 3 rounds."""
    rows = rounds[WARM_ROUNDS:]
    if len(rows) < 3:
        return None
    return float(np.polyfit([row.minute for row in rows], [getattr(row, name) for row in rows], 1)[0])


def summary(rounds: list[Round]) -> dict[str, Any]:
    """Return the table at the end."""
    recoveries = [row.recovery_s for row in rounds if row.recovery_s is not None]
    counted = rounds[WARM_ROUNDS:] or rounds
    grown = {
        name: getattr(rounds[-1], name) - getattr(counted[0], name)
        for name in ("handles", "actors", "groups")
    }
    return {
        "rounds": len(rounds),
        "minutes": round(rounds[-1].minute, 1),
        "promises_held": sum(row.promise for row in rounds),
        "faults": {fault: sum(row.fault == fault for row in rounds) for fault in FAULTS},
        "recovery_median_s": float(np.median(recoveries)) if recoveries else None,
        "recovery_max_s": max(recoveries, default=None),
        "rss_slope_mib_per_min": slope_per_minute(rounds, "rss_mib"),
        "daemons_slope_mib_per_min": slope_per_minute(rounds, "daemons_mib"),
        "store_mib_last": rounds[-1].store_mib,
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
    rounds = soak(options.minutes, options.seed)
    table = summary(rounds)
    for name, value in table.items():
        print(f"{name:28} {value}")
    if options.out:
        rows = [asdict(row) for row in rounds]
        options.out.write_text(
            json.dumps({"seed": options.seed, "summary": table, "rounds": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
