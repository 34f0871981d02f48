"""Faults on purpose, in the workers of a real Ray Train run: at a step, on a rank, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What happens where.

    Args:
        kind: `kill` (SIGKILL to itself), `runtime` (RuntimeError, as of a lost device), `bug` (ValueError),
            `nan` (its loss), `mark` (nothing), `hang` (waits for ever), `notice` (waits for Ray's notice of
            preemption), `gate` (waits until the file `go` is in the folder of flags).
        rank: the worker.
        step: the global step before which it happens.
    """

    kind: str
    rank: int
    step: int


def with_faults(work: Callable, faults: Sequence[Fault], flags: Path, order: Path | None = None) -> Callable:
    """Return `work` (Ray Train's function) with faults in its training steps.

    Every worker appends to `order` a JSON line a step: what it trains on, and with which learning rate.

    The returned function is pickled by value into workers, so it imports for itself. Each fault happens once:
    a file in `flags` says that it has, and on which node; a file
    `after` when the first step after it was done.
    """
    plan = [(fault.kind, fault.rank, fault.step) for fault in faults]
    folder, log = str(flags), str(order or "")

    def run(settings: dict[str, Any]) -> Any:
        import json
        import os
        import signal
        import threading
        from pathlib import Path

        import ray

        from ss4rec.train.loop import TrainLoop

        honest = TrainLoop._train_step

        def wait_for(there: Callable) -> None:
            while not there():
                threading.Event().wait(0.1)

        def strike(loop: TrainLoop, kind: str) -> None:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "runtime":
                raise RuntimeError("device lost (on purpose)")
            elif kind == "bug":
                raise ValueError("a bug (on purpose)")
            elif kind == "hang":
                threading.Event().wait()
            elif kind == "notice":
                wait_for(loop.hooks.notice)
            elif kind == "gate":
                wait_for((Path(folder) / "go").exists)
            elif kind == "nan":
                forward = loop.objective.forward

                def once(*arguments):
                    loop.objective.forward = forward
                    return forward(*arguments) * float("nan")

                loop.objective.forward = once

        def faulty(self, batch):
            for kind, rank, step in plan:
                flag = Path(folder) / f"{kind}-{rank}-{step}"
                if self.workers.rank == rank and self.global_step == step and not flag.exists():
                    flag.write_text(ray.get_runtime_context().get_node_id())
                    strike(self, kind)
            if log:
                row = {"rank": self.workers.rank, "world": self.workers.world, "step": self.global_step}
                row |= {"epoch": batch.epoch, "step_of_epoch": batch.step, "first_users": batch.first_users}
                row |= {"num_targets": batch.num_targets, "lr": self._lr()}
                with Path(log).open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
            honest(self, batch)
            after = Path(folder) / "after"
            if born_later and not after.exists():
                after.touch()

        born_later = any(Path(folder).iterdir())  # this process was started after a fault
        TrainLoop._train_step = faulty
        return work(settings)

    return run


def recovery_s(flags: Path) -> float | None:
    """Return the seconds from the first fault to the first step of a worker that was started after it."""
    hit = [path.stat().st_mtime for path in flags.iterdir() if path.name != "after"]
    after = flags / "after"
    return after.stat().st_mtime - min(hit) if hit and after.exists() else None
