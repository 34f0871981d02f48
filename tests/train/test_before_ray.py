"""What can be known before Ray starts is said before Ray starts."""

import re
from pathlib import Path

import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.errors import ConfigError, SS4RecError
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


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("model.user_features", r"model.user_features has age, and small says of users: nothing"),
        (
            "model.item_features",
            r"model.item_features has age, and items of small have genres, period, title",
        ),
        ("model.context", r"model.context has age, and events of small have"),
    ],
)
def test_training_says_that_columns_are_not_there(tmp_path, field, message):
    from ss4rec.train.run import train

    rows = "".join(f"{u},{i},{10**9 + i}\n" for u in range(9) for i in range(8))
    (tmp_path / "small.csv").write_text("user,item,time\n" + rows)
    prepare(tmp_path / "small.csv", tmp_path / "data", k_core=0)
    with pytest.raises(ConfigError, match=message):
        train(small(**{field: ["age"]}), tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


FILES = {
    "r.csv": "user,item,time,event\n"
    + "".join(f"{u},{i},{10**9 + i},view\n" for u in range(9) for i in range(8)),
    "items.csv": "item,brand\n1,a\n2,b\n",
    "taken/x": "x",
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--source": "no.csv"}, "no.csv does not exist; give a zip, a folder or a file"),
        ({"--out": "taken"}, "taken holds other files"),
        ({"--out": "r.csv"}, "r.csv is a file; give a folder"),
        ({"--item-features": "no.csv"}, "no.csv does not exist; give a file with a table"),
        ({"--user-features": "r.csv"}, "column user has empty or repeated ids"),
        (
            {"--item-features": "items.csv", "--feature-kinds": "brand=nice"},
            "brand=nice: .* kinds are categorical",
        ),
        (
            {"--item-features": "items.csv", "--feature-kinds": "colour=text"},
            "colour=text: .* has the columns brand",
        ),
        ({"--feature-kinds": "colour=text"}, "colour=text: what is said about items has the columns none"),
        ({"--context": "device"}, "has no column 'device'"),
        ({"--targets": "kind=buy"}, "has no column 'kind'"),
        ({"--columns": "users=user"}, "--columns knows user, item, time, rating"),
        ({"--delimiter": "commas"}, "give one character"),
        ({"--earliest": "yesterday"}, "--earliest 'yesterday' is no date"),
        (
            {"--earliest": "2020-01-01", "--latest": "2001-01-01"},
            "no time lies between --earliest 2020-01-01",
        ),
        ({"--scale": ("5", "1")}, "--scale 5 1 has no ratings; give the lower end first"),
    ],
)
def test_preparing_says_what_is_wrong(tmp_path, monkeypatch, options, message):
    from click.testing import CliRunner

    from ss4rec.cli.prepare import prepare_command

    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    given = {"--source": "r.csv", "--out": "out", "--address": "local"} | options
    arguments = [
        part
        for key, value in given.items()
        for part in (key, *((value,) if isinstance(value, str) else value))
    ]
    result = CliRunner().invoke(prepare_command, arguments)
    assert isinstance(result.exception, SS4RecError), result.exception
    assert re.search(message, str(result.exception))
    assert not (tmp_path / "out").exists()
