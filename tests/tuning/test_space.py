"""A search space is checked whole before the first trial."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import tuning.spaces
from ss4rec.config import config_changes
from ss4rec.errors import ConfigError, UsageError
from ss4rec.presets import preset
from tuning.space import SearchSpace, When, load_space

LR = {"optim.lr": FloatDistribution(1e-4, 1e-2, log=True)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"parameters": {"optim.lrr": LR["optim.lr"]}}, r'optim.lrr: no such field; did you mean "optim.lr"'),
        ({"parameters": {"model": CategoricalDistribution(["a"])}}, r"model: no such field"),
        ({"parameters": {}}, r"nothing to search"),
        ({"parameters": {"model.dropout": FloatDistribution(0, 1.0)}}, r"model.dropout: .*less than 1.*1.0"),
        ({"parameters": {"model.norm": CategoricalDistribution(["post", "rms"])}}, r"model.norm: .*'rms'"),
        ({"parameters": LR, "fixed": {"optim.lr": 1e-3}}, r"optim.lr: both searched and fixed"),
        ({"parameters": LR, "fixed": {"train.epoch": 3}}, r"train.epoch: no such field"),
        (
            {"parameters": LR, "conditions": {"optim.lr": When("model.norm", ("pre",))}},
            r"no parameter above it",
        ),
        (
            {"parameters": LR, "conditions": {"model.dim": When("optim.lr", (1,))}},
            r"model.dim: has a condition",
        ),
        ({"parameters": LR, "first": [{"optim.lr": 1.0}]}, r"first\[0\]: optim.lr=1.0 is outside"),
        ({"parameters": LR, "first": [{"model.dim": 8}]}, r"first\[0\]: model.dim is not searched"),
    ],
)
def test_what_is_wrong_is_named(parts, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(base="debug", **parts)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        SearchSpace(
            base="debug", parameters={"model.dimm": IntDistribution(1, 2), "loss.kid": IntDistribution(1, 2)}
        )
    assert "model.dimm" in str(error.value)
    assert "loss.kid" in str(error.value)


def test_conditional_parameters_are_sampled_only_where_they_count(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [space.sample(study.ask()) for _ in range(40)]
    assert {"cosine", "constant"} == {point["optim.schedule"] for point in points}
    assert all(("optim.final_lr_share" in point) == (point["optim.schedule"] == "cosine") for point in points)


def test_a_trial_differs_from_the_base_in_its_point_alone(space):
    point = {"optim.lr": 2e-3, "optim.schedule": "cosine", "optim.final_lr_share": 0.1}
    changes = config_changes(preset("debug"), space.configure(point))
    assert changes == point | space.fixed


def test_a_preset_as_first_trial_is_read_at_the_searched_fields(space):
    debug = preset("debug")
    assert debug.optim.schedule == "constant"
    assert space.first_points() == [{"optim.lr": debug.optim.lr, "optim.schedule": "constant"}]


def test_spaces_that_differ_describe_themselves_differently(space):
    assert space.describe() == space.describe()
    other = SearchSpace(base="debug", parameters=dict(space.parameters))
    assert other.describe() != space.describe()


@pytest.mark.parametrize("name", ["ml_1m", "demo"])
def test_the_spaces_that_ship_are_good(name):

    space = load_space(Path(tuning.spaces.__file__).parent / f"{name}.py")
    assert space.first_points()


def test_a_file_without_a_space_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no search space"):
        load_space(tmp_path / "missing.py")
    path = tmp_path / "empty.py"
    path.write_text("SPACE = {}")
    with pytest.raises(UsageError, match=r"defines no SPACE .*found dict"):
        load_space(path)
