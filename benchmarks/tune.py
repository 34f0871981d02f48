"""What a sweep costs beside its training, and what pruning saves: `python -m benchmarks.tune`.

Sweeps over the demo space on synthetic data: a few unpruned trials one after another (overhead); then for each seed
64 trials with ASHA and the same 64 without pruning. Overhead is the sweep's wall time less the seconds that its trials
spent training and validating; the first trial's process start is in it. With --storage the figures of sweeps that an
earlier call has measured are taken over, so that the seeds can be measured one call at a time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from benchmarks.record import headline, write_record
from ss4rec.cluster.connect import cluster
from ss4rec.data.synth.generate import synth
from tuning.space import load_space
from tuning.study import FACTS, Pruning
from tuning.sweep import STUDY_FILE, SweepConfig, run_sweep

ROOT = Path(__file__).parent.parent


def measured(
    name: str, data: Path, storage: Path, *, trials: int, pruner: Pruning, seed: int, concurrent: int = 0
) -> dict[str, Any]:
    """Run one sweep, or read what an earlier call measured of it; return its figures."""
    figures = storage / name / "figures.json"
    if not figures.exists():
        row = sweep(
            name, data, storage, SweepConfig(trials=trials, pruner=pruner, seed=seed, concurrent=concurrent)
        )
        figures.write_text(json.dumps(row))
    row = json.loads(figures.read_text())
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def sweep(name: str, data: Path, storage: Path, settings: SweepConfig) -> dict[str, Any]:
    """Run one sweep and return its figures."""
    space = load_space(ROOT / "tuning" / "spaces" / "demo.py")
    began = time.monotonic()
    summary = run_sweep(space, data, storage / name, settings)
    wall_s = time.monotonic() - began
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{storage / name / STUDY_FILE}")
    facts = [trial.user_attrs.get(FACTS, {}) for trial in study.get_trials()]
    return {
        "sweep": name,
        **settings.model_dump(include={"trials", "pruner", "seed", "concurrent"}),
        "wall_s": round(wall_s, 2),
        "trained_s": round(sum(fact.get("elapsed_s", 0.0) for fact in facts), 2),
        "setup_s": round(sum(fact.get("setup_s", 0.0) for fact in facts), 2),
        "epochs": summary["epochs"],
        "pruned": summary["trials"]["pruned"],
        "failed": summary["trials"]["fail"],
        "best": summary["best"]["values"][0],
        "placement_groups_left": summary["placement_groups_left"],
    }


def headlines(
    alone: dict[str, Any], pruned: Sequence[dict[str, Any]], unpruned: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the record's headline figures."""
    overhead_s = (alone["wall_s"] - alone["trained_s"]) / alone["trials"]
    saved = 1 - sum(row["epochs"] for row in pruned) / sum(row["epochs"] for row in unpruned)
    best = [fmean(row["best"] for row in rows) for rows in (pruned, unpruned)]
    left = max(row["placement_groups_left"] for row in pruned)
    about = f"mean best {best[0]:.4f} pruned, {best[1]:.4f} unpruned, over {len(pruned)} seed(s)"
    trained = "the trials' own training seconds"
    return [
        headline("tune.overhead_s_per_trial", round(overhead_s, 3), "s", 3.0, trained),
        headline("tune.placement_groups_left", left, "groups", 0),
        headline("tune.epochs_saved_share", round(saved, 4), "share", 0.6, about),
    ]


def main() -> None:
    """Run the sweeps, print a line each, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=2000, help="synthetic users")
    parser.add_argument("--trials", type=int, default=64, help="trials of the long sweeps")
    parser.add_argument("--alone", type=int, default=6, help="trials of the overhead sweep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020], help="seeds of the long sweeps")
    parser.add_argument(
        "--storage", type=Path, help="keep the sweeps there, and take over those that are there"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch, cluster("local"):
        storage = (options.storage or Path(scratch)).resolve()
        data = storage / f"data-{options.users}"
        if not data.exists():
            synth(data, users=options.users)
        place = {"data": data, "storage": storage}
        alone = measured(
            "alone", **place, trials=options.alone, pruner="none", seed=options.seeds[0], concurrent=1
        )
        pruned, unpruned = [], []
        for seed in options.seeds:
            for pruner, rows in (("asha", pruned), ("none", unpruned)):
                rows.append(
                    measured(f"{pruner}-{seed}", **place, trials=options.trials, pruner=pruner, seed=seed)
                )
    lines = headlines(alone, pruned, unpruned)
    for line in lines:
        print(f"{line['name']} {line['value']} {line['unit']} (goal {line['goal']}) {line['peer']}")
    print(write_record("tune", [alone, *pruned, *unpruned], lines, options.out))


if __name__ == "__main__":
    main()
