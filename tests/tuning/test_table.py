"""The live table, and what a trial's error means for the sweep."""

import errno
import os

import pytest
import torch

from ss4rec.config import override
from ss4rec.errors import CheckpointError, NonFiniteError
from tuning.ray_trial import _final
from tuning.ray_tune import last_failure
from tuning.table import LiveTable


@pytest.fixture
def table(space):
    """A table of four trials, two at a time, with a clock that the test sets; returns it, the clock and its lines."""
    clock, told = [0.0], []
    table = LiveTable(space, 9, 4, 2, emit=told.append, emit_table=told.extend, clock=lambda: clock[0])
    for number in (0, 1):
        table(
            number,
            {"state": "running", "config": override(space.start(), {"optim.lr": 10.0 ** -(number + 2)})},
        )
    return table, clock, told


def test_it_tells_best_running_pruned_failed_and_time_left(table):
    table, clock, told = table
    clock[0] = 10.0
    table(1, {"state": "running", "epoch": 1, "score": 0.2})
    assert told == []  # less than `every_s` has passed
    table(1, {"state": "pruned", "epoch": 1, "score": 0.2})
    table(0, {"state": "ended", "epoch": 9, "score": 0.3, "best_score": 0.4})
    assert told[0] == "2/4 trials done: 1 ended, 1 pruned, 0 failed; 0 running; 10s, about 10s left"
    assert told[1].startswith("     0  ended   epoch   9/9  NDCG@10 0.4000  lr=0.01")
    assert told[2].startswith("     1  pruned  epoch   1/9  NDCG@10 0.2000  lr=0.001")
    assert max(map(len, told)) <= 80


def test_every_trial_that_is_counted_is_listed(table):
    """One that failed before its first score too."""
    table, _, told = table
    table(1, {"state": "failed", "reason": "out of memory"})
    table(0, {"state": "ended", "epoch": 9, "best_score": 0.4})
    assert told[-3].startswith("2/4 trials done")
    assert [line.split()[:2] for line in told[-2:]] == [["0", "ended"], ["1", "failed"]]


def test_a_failure_is_told_with_its_reason(table):
    table, _, told = table
    table(0, {"state": "failed", "reason": "NonFiniteError: loss"})
    assert told[0] == "trial 0 failed: NonFiniteError: loss"
    assert "1/4 trials done: 0 ended, 0 pruned, 1 failed; 1 running" in told[1]


def test_it_tells_when_the_sweep_is_stopped_if_that_comes_first(table):
    table, clock, told = table
    table.ends_at, clock[0] = 12.0, 10.0
    table(0, {"state": "ended", "epoch": 9, "best_score": 0.4})
    assert told[0].endswith("1 running; 10s, stops in 2s")


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (NonFiniteError("loss is nan"), "failed", "NonFiniteError: loss is nan"),
        (torch.cuda.OutOfMemoryError("tried 20 GiB\ndetails"), "failed", "out of memory: tried 20 GiB"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "failed", "out of memory"),
        (ValueError("a bug"), "failed", "ValueError: a bug"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space", "No space left"),
        (CheckpointError("could not be written: [Errno 28] No space left on device"), "no space", "No space"),
    ],
)
def test_what_a_restart_would_repeat_ends_the_trial_and_a_full_disk_the_sweep(error, state, words):
    result = _final(error)
    assert result["state"] == state
    assert result["done"]
    assert result["reason"].startswith(words) or words in result["reason"]


def test_what_may_be_the_machines_is_raised_for_another_try():
    with pytest.raises(ConnectionResetError):
        _final(ConnectionResetError("peer is gone"))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            "ray::step() (pid=7)\n  File x\nIsADirectoryError: [Errno 21] Is a directory: 'm'",
            "IsADirectoryError: [Errno 21] Is a directory: 'm'",
        ),
        ("The actor died unexpectedly before finishing this task.\n\tclass_name: X", "its process was lost"),
    ],
)
def test_the_reason_of_a_trial_that_was_given_up_is_its_last_failure(last, said):
    first = "Failure # 1 (occurred at 2026-11-25_03-50-00)\nray::step()\nOSError: another\n"
    assert last_failure(f"{first}Failure # 2 (occurred at 2026-11-25_03-51-00)\n{last}\n") == said
