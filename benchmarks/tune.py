"""What a sweep costs beside its training, and what pruning saves: `python benchmarks/tune.py`.

Three sweeps over the demo space on synthetic data, in one Ray: a few unpruned trials one after another (overhead), 64
trials with ASHA, and the same 64 without pruning. Overhead is the sweep's wall time less the seconds that its trials
spent training and validating; the first trial's process start is in it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from record import headline, write_record

from ss4rec.data.synth import synth
from ss4rec.ray_cluster import cluster
from tuning.job import STUDY_FILE, SweepConfig, run_sweep
from tuning.space import load_space
from tuning.study import FACTS, Pruning

ROOT = Path(__file__).parent.parent


def sweep(
    name: str, data: Path, storage: Path, trials: int, pruner: Pruning, concurrent: int
) -> dict[str, Any]:
    """Run one sweep and return its figures."""
    space = load_space(ROOT / "tuning" / "spaces" / "demo.py")
    began = time.monotonic()
    settings = SweepConfig(trials=trials, pruner=pruner, concurrent=concurrent)
    summary = run_sweep(space, data, storage / name, settings)
    wall_s = time.monotonic() - began
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{storage / name / STUDY_FILE}")
    facts = [trial.user_attrs.get(FACTS, {}) for trial in study.get_trials()]
    trained_s = sum(fact.get("elapsed_s", 0.0) for fact in facts)
    return {
        "sweep": name,
        "trials": trials,
        "pruner": pruner,
        "concurrent": concurrent,
        "wall_s": round(wall_s, 2),
        "trained_s": round(trained_s, 2),
        "setup_s": round(sum(fact.get("setup_s", 0.0) for fact in facts), 2),
        "epochs": summary["epochs"],
        "pruned": summary["trials"]["pruned"],
        "failed": summary["trials"]["fail"],
        "best": summary["best"]["values"][0],
        "placement_groups_left": summary["placement_groups_left"],
    }


def main() -> None:
    """Run the sweeps, print a line each, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=2000, help="synthetic users")
    parser.add_argument("--trials", type=int, default=64, help="trials of the two long sweeps")
    parser.add_argument("--alone", type=int, default=6, help="trials of the overhead sweep")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch, cluster("local"):
        data, storage = Path(scratch) / "data", Path(scratch) / "runs"
        synth(data, users=options.users)
        rows = [
            sweep("alone", data, storage, options.alone, "none", 1),
            sweep("pruned", data, storage, options.trials, "asha", 0),
            sweep("unpruned", data, storage, options.trials, "none", 0),
        ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    alone, pruned, unpruned = rows
    overhead_s = (alone["wall_s"] - alone["trained_s"]) / options.alone
    saved = 1 - pruned["epochs"] / unpruned["epochs"]
    best = f"best {pruned['best']:.4f} pruned, {unpruned['best']:.4f} unpruned"
    headlines = [
        headline(
            "tune.overhead_s_per_trial", round(overhead_s, 3), "s", 3.0, "the trials' own training seconds"
        ),
        headline("tune.placement_groups_left", pruned["placement_groups_left"], "groups", 0),
        headline("tune.epochs_saved_share", round(saved, 4), "share", 0.6, best),
    ]
    for line in headlines:
        print(f"{line['name']} {line['value']} {line['unit']} (goal {line['goal']}) {line['peer']}")
    print(write_record("tune", rows, headlines, options.out))


if __name__ == "__main__":
    main()
