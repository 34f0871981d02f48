"""`--workers MIN:MAX` before a run: what is asked of the cluster (tests/faults/test_other_workers.py has the run)."""

import pytest
from click.testing import CliRunner

from ss4rec.cli.train import train_command
from ss4rec.cluster.placement import Cluster as Nodes
from ss4rec.cluster.placement import place
from ss4rec.errors import ConfigError, ResourceError
from tests.faults.small import small
from tuning.plan import plan_trials

RANGE = {"resources.workers": 1, "resources.max_workers": 2, "resources.resize_every_s": 1.0}


def test_preflight_asks_for_the_fewest_workers():
    """Seen to fail: with the most workers in `_require_slots`."""
    resources = small(**RANGE | {"resources.max_workers": 8}).resources
    placement = place(resources, Nodes(({"CPU": 1.0},)))
    assert (placement.workers, placement.max_workers, placement.data_cpus) == (1, 8, 1.0)
    assert str(placement).startswith("1 to 8 worker(s)")
    with pytest.raises(ResourceError, match="hold 0"):
        place(resources, Nodes(({"CPU": 0.5},)))


def test_range_is_checked():
    with pytest.raises(ConfigError, match="max_workers 2 is less than workers 3"):
        small(**{"resources.workers": 3, "resources.max_workers": 2})
    assert not small(**{"resources.workers": 2, "resources.max_workers": 2}).resources.elastic


def test_the_command_takes_a_range(prepared, monkeypatch):
    """`ss4rec train --workers 1:8` as far as the run that it would start. Seen to fail: with the most left out."""
    asked = []
    monkeypatch.setattr("ss4rec.train.run.train", lambda config, *rest, **more: asked.append(config) or {})
    arguments = ["--data", str(prepared), "--preset", "debug", "--name", "first", "--workers", "1:8"]
    CliRunner().invoke(train_command, arguments, catch_exceptions=False)
    assert [(config.resources.workers, config.resources.max_workers) for config in asked] == [(1, 8)]
    for wrong in ("8:1", "0:2", "1:", "a:b"):
        assert CliRunner().invoke(train_command, [*arguments[:-1], wrong]).exit_code == 2, wrong


def test_trials_are_not_elastic():
    with pytest.raises(ResourceError, match="write --workers 1"):
        plan_trials(small(**RANGE).resources, Nodes(({"CPU": 8.0},)))
