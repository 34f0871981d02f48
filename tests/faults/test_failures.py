"""What follows from a failure, and how long recovery took, without a cluster: rows 3 and 4 of docs/reliability.md."""

import os
import re
import time

import pytest
from ray.exceptions import ActorDiedError

from ss4rec.errors import SS4RecError
from ss4rec.train import ray_recovery
from ss4rec.train.ray_recovery import FailureLine, decide, retry_controller, say_recovered
from tests.faults.small import KilledError, small, stop_before, train


@pytest.fixture(autouse=True)
def groups_of(monkeypatch):
    """There is no cluster; returns whose placement groups were removed."""
    owners = []
    monkeypatch.setattr(ray_recovery.ray_private, "remove_placement_groups_of", owners.append)
    return owners


def dying(times, error=None):
    """Return what runs a controller: it dies so many times and then ends with an outcome; counts its calls."""
    calls = []

    def fit_once():
        calls.append(1)
        if len(calls) <= times:
            raise error or ActorDiedError()
        return {"global_step": 15}

    return fit_once, calls


def test_dead_controller_is_retried_within_the_budget(tmp_path, capsys):
    """Row 4: Ray Train's own controller dies or cannot be started; so many times as workers may fail it is started
    again, one line a death.

    Seen to fail: with the error raised at once.
    """
    fit_once, calls = dying(2)
    assert retry_controller(fit_once, 2, tmp_path / "failure-a.json") == {"global_step": 15}
    assert len(calls) == 3
    told = capsys.readouterr().out.splitlines()
    assert [line.rpartition("; ")[2] for line in told] == [
        "retry 1 of 2 from the last checkpoint",
        "retry 2 of 2 from the last checkpoint",
    ]
    assert told[0].startswith("failure 1: Ray Train's controller died: The actor died")


def test_controller_that_dies_too_often(tmp_path, capsys):
    """Row 4: past the budget the run ends with what is to be done.

    Seen to fail: without the comparison with the budget it goes on for ever.
    """
    fit_once, calls = dying(9)
    with pytest.raises(SS4RecError, match=r"its controller died: .*The same command continues"):
        retry_controller(fit_once, 1, tmp_path / "failure-a.json")
    assert len(calls) == 2
    assert "failure 2" in (told := capsys.readouterr().out)
    assert told.endswith("; not retried, resources.max_failures is 1\n")


def test_controller_that_cannot_be_made(tmp_path, capsys):
    """Row 4: an error in the controller's own constructor would come again.

    Seen to fail: with the look at `actor_init_failed` left out it is retried.
    """
    error = ActorDiedError()
    error._actor_init_failed = True
    fit_once, calls = dying(1, error)
    with pytest.raises(SS4RecError, match="controller died"):
        retry_controller(fit_once, 3, tmp_path / "failure-a.json")
    assert len(calls) == 1
    assert capsys.readouterr().out.endswith("; not retried, it cannot be made\n")


def test_controller_that_dies_of_a_users_error(tmp_path):
    """Row 4: a worker wrote down an error that a restart would repeat: that one is told, not the controller's death.

    Seen to fail: with the look at the file left out of `decide`.
    """
    (tmp_path / "failure-a.json").touch()
    fit_once, calls = dying(1)
    assert retry_controller(fit_once, 3, tmp_path / "failure-a.json") is None
    assert len(calls) == 1


def test_time_to_recover_is_said_once(prepared, tmp_path, monkeypatch, capsys):
    """Rows 3, 4: the time from the first of two failures in a row to the first step of the new group is printed by the
    training itself, once, and nothing of it stays.

    Seen to fail: with a second failure that starts the clock anew; with `first_step` called after every step.
    """
    run, failure = tmp_path / "run", tmp_path / "run/failure-a.json"
    stop_before(monkeypatch, 4)
    with pytest.raises(KilledError):
        train(prepared, run, small(), first_step=lambda: say_recovered(failure))
    assert "recovered" not in capsys.readouterr().out
    FailureLine(3, failure).after_exception(None, {0: ActorDiedError()})
    mark = run / ".failed-a"
    os.utime(mark, (time.time() - 5, time.time() - 5))
    assert decide(2, 3, failure) == ("retry 2 of 3 from the last checkpoint", True)
    train(prepared, run, small(), first_step=lambda: say_recovered(failure))
    out = capsys.readouterr().out
    said = re.findall(r"recovered: first step (\d+\.\d) s after the failure was noticed\n", out)
    assert len(said) == 1
    assert float(said[0]) >= 5
    assert out.index("continuing run") < out.index("recovered") < out.index("epoch 1/3 done")
    assert not mark.exists()
