"""What can be known before Ray starts is said before Ray starts."""

from pathlib import Path

import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.errors import ConfigError
from tests.faults.small import small


@pytest.fixture
def short(tmp_path):
    """A prepared folder whose users all have the 3 events that are the least."""
    rows = "".join(f"{u},{i},{10**9 + i}\n" for u in range(9) for i in range(3))
    (tmp_path / "t.csv").write_text("user,item,time\n" + rows)
    prepare(tmp_path / "t.csv", tmp_path / "data", k_core=0)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    import ss4rec.cluster.connect

    def fail(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ss4rec.cluster.connect, "cluster", fail)
    monkeypatch.setattr("tuning.sweep.cluster", fail)


def test_training_says_that_users_are_too_short(short, tmp_path):
    from ss4rec.train.run import train

    with pytest.raises(ConfigError, match=r"no user has the 4 events that one training pair needs"):
        train(small(), short, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_says_that_workers_are_too_many(short, tmp_path, prepared):
    from ss4rec.train.run import train

    with pytest.raises(ConfigError, match=r"training windows give batches of"):
        train(small(**{"resources.workers": 4000}), prepared, tmp_path / "run")


def test_sweeps_say_that_users_are_too_short(short, tmp_path):
    from tuning.space import load_space
    from tuning.sweep import SweepConfig, run_sweep

    space = load_space(Path(__file__).parents[2] / "tuning/spaces/demo.py")
    with pytest.raises(ConfigError, match=r"no user has the 4 events"):
        run_sweep(space, short, tmp_path / "sweep", SweepConfig(trials=1), base=small())
