"""What follows from a failure on Ray: which errors are final, what is retried, and how long recovery took."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ray.exceptions import ActorDiedError, RayActorError
from ray.train import UserCallback

from ss4rec import errors
from ss4rec.cluster import ray_private
from ss4rec.cluster.secrets import redact
from ss4rec.io.atomic import write_json
from ss4rec.io.untrusted import read_json
from ss4rec.runs.lease import file_age_s
from ss4rec.train.status import say


@contextmanager
def final_errors(failure: Path, alone: bool) -> Iterator[None]:
    """Write an error that a restart would repeat into the file `failure`.

    Raising it would make Ray restart the group. A worker without peers can simply return; with peers
    the group must be torn down (they may wait in a collective), and the restarted workers see the file.
    """
    try:
        yield
    except (errors.SS4RecError, *errors.BUGS) as error:
        if not alone and not dist.is_initialized():
            # Ray takes the group apart because of a peer: torch's ValueError about that is no bug of ours.
            raise
        write_json(failure, {"type": type(error).__name__, "message": redact(str(error))})
        all_raise_together = alone or isinstance(error, errors.NonFiniteError)
        if not (all_raise_together and isinstance(error, errors.SS4RecError)):
            raise


def raise_failure(path: Path) -> None:
    """Raise what a worker has written into the file `path`, if it has."""
    if not path.exists():
        return
    failure = read_json(path)
    path.unlink()
    kind = getattr(errors, failure["type"], None)
    if kind is None:  # a bug: its name is half of the message
        raise errors.SS4RecError(f"training failed with {failure['type']}: {failure['message']}; not retried")
    raise kind(failure["message"])


def retry_controller(fit_once: Callable[[], Any], most: int, failure: Path) -> Any:
    """Run `fit_once` until Ray Train's controller ends by itself.

    Ray Train retries workers; its controller is an actor like any other, whose process can be killed for memory or
    fail to start on a crowded machine, and nobody retries that. Each controller counts its workers' failures anew.

    Args:
        fit_once: starts a controller and returns what the leading worker returned.
        most: deaths of the controller that are retried; -1: all.
        failure: file that a worker writes when a restart would only repeat its error.

    Raises:
        SS4RecError: if it died more often.
    """
    deaths = 0
    while True:
        try:
            return fit_once()
        except ActorDiedError as error:
            deaths += 1
            line, again = "not retried, it cannot be made", False
            if not error.actor_init_failed:
                line, again = decide(deaths, most, failure)
            what = redact(" ".join(str(error).split()))[:200]
            say(f"failure {deaths}: Ray Train's controller died: {what}; {line}", run=failure.parent.name)
            if failure.exists():  # it says more than the controller's death
                return None
            if again:
                # With them go its workers, if one still lives. Ray keeps them until the driver ends, and a new group of
                # workers would wait for their CPUs for ever; Ray Train's own cleaner needs a dashboard.
                ray_private.remove_placement_groups_of(error.actor_id)
            else:
                raise errors.SS4RecError(
                    f"Ray could not run the training, its controller died: {what}. The same command continues from "
                    "the last checkpoint"
                ) from error


def decide(failures: int, most: int, failure: Path) -> tuple[str, bool]:
    """Return in words what follows from a failure, and whether that is a retry; a file marks since when it recovers.

    Args:
        failures: how many there were.
        most: how many are retried; -1: all.
        failure: file that a worker writes when a restart would only repeat its error.
    """
    if failure.exists():
        return "not retried, a restart would repeat it", False
    if 0 <= most < failures:
        return f"not retried, resources.max_failures is {most}", False
    mark = _mark(failure)
    if not mark.exists():  # or the group failed again before its first step: recovery goes on
        mark.touch()
    return f"retry {failures} of {'any number' if most < 0 else most} from the last checkpoint", True


def _mark(failure: Path) -> Path:
    """Return the file whose time stamp says since when an attempt recovers."""
    return failure.with_name(f".failed-{failure.stem.removeprefix('failure-')}")


def say_recovered(failure: Path) -> None:
    """Say how long recovery took, if this group was started after a failure; called after its first step.

    From the moment in which the failure was noticed, by the file server's clock: workers may be on another machine.
    """
    seconds, _ = file_age_s(_mark(failure))
    if math.isfinite(seconds):
        say(
            f"recovered: first step {seconds:.1f} s after the failure was noticed",
            recovery_s=round(seconds, 3),
        )
        _mark(failure).unlink(missing_ok=True)


class FailureLine(UserCallback):
    """Says in one line what failed and what is done about it; runs in Ray Train's controller.

    Args:
        max_failures: failures that are retried; -1: all.
        failure: file that a worker writes when a restart would only repeat its error.
    """

    def __init__(self, max_failures: int, failure: Path) -> None:
        self.max_failures, self.failure, self.failures = max_failures, failure, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count the failure and say what follows from it."""
        self.failures += 1
        # A worker that died is the cause; its peers' lost connections follow from it.
        rank, error = min(
            worker_exceptions.items(), key=lambda item: (not isinstance(item[1], RayActorError), item[0])
        )
        what = redact(" ".join(str(error).split()))[:200]
        line, _ = decide(self.failures, self.max_failures, self.failure)
        say(
            f"failure {self.failures}: worker {rank} failed: {what}; {line}",
            run=self.failure.parent.name,
            worker=rank,
        )
