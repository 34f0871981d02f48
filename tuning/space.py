"""Typed search spaces: Optuna distributions over the fields of `ss4rec.config.RunConfig`.

A space is a Python file with one `SPACE = SearchSpace(...)`, see `tuning/spaces/`. Everything that can be wrong with it
is found before the first trial: unknown fields, bounds that the configuration refuses, conditions without a parent.
"""

from __future__ import annotations

import json
import runpy
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from ss4rec.config import RunConfig, at, field_names, nearest_field, override
from ss4rec.errors import ConfigError, SS4RecError, UsageError
from ss4rec.presets import preset

Value = str | int | float | bool | None
Point = Mapping[str, Value]
"""Values by dotted field name."""


@dataclass(frozen=True)
class When:
    """Search a parameter only where another one has one of `values`."""

    parent: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep searches.

    Raises:
        ConfigError: on construction, with every problem on a line of its own.
    """

    base: str
    """Preset that gives every field which is not searched."""
    parameters: Mapping[str, BaseDistribution]
    """Distribution by dotted field. A condition may only name a parameter above its own."""
    conditions: Mapping[str, When] = field(default_factory=dict)
    """When a parameter is searched; without one it always is."""
    fixed: Point = field(default_factory=dict)
    """Fields that differ from `base` in every trial."""
    first: Sequence[str | Point] = ()
    """Trials to run before the search: a preset's name, which is a baseline with its values at the searched fields and
    is never pruned; or values by field (what a point leaves out is sampled)."""

    def __post_init__(self) -> None:
        problems = [*self._field_problems(), *self._condition_problems()]
        if not problems:
            problems = [*self._bound_problems(), *self._first_problems()]
        if problems:
            raise ConfigError("search space refused:\n  " + "\n  ".join(problems))

    def configure(self, point: Point, base: RunConfig | None = None) -> RunConfig:
        """Return the configuration of the trial at `point`.

        Args:
            point: values of the searched fields.
            base: configuration to start from; default: the preset `base` with `fixed`.
        """
        return override(self.start() if base is None else base, point)

    def start(self) -> RunConfig:
        """Return the preset `base` with the fixed fields."""
        return override(preset(self.base), self.fixed)

    def sample(self, trial: optuna.trial.BaseTrial) -> dict[str, Value]:
        """Ask `trial` for a value of every parameter whose condition holds."""
        point: dict[str, Value] = {}
        for name, distribution in self.parameters.items():
            if self._active(name, point):
                point[name] = _suggest(trial, name, distribution)
        return point

    def first_points(self) -> list[dict[str, Value]]:
        """Return `first` as points: presets are read at the searched fields."""
        points = []
        for entry in self.first:
            wanted = self.read(preset(entry)) if isinstance(entry, str) else entry
            point: dict[str, Value] = {}
            for name in self.parameters:
                if name in wanted and self._active(name, point):
                    point[name] = wanted[name]
            points.append(point)
        return points

    def read(self, config: RunConfig) -> dict[str, Value]:
        """Return the values that `config` has at the searched fields whose condition holds."""
        point: dict[str, Value] = {}
        for name in self.parameters:
            if self._active(name, point):
                point[name] = at(config, name)
        return point

    def describe(self) -> dict[str, str]:
        """Return a text for each parameter that changes when the parameter does; two equal spaces agree."""
        return {
            name: distribution_to_json(distribution) + _condition_text(self.conditions.get(name))
            for name, distribution in self.parameters.items()
        }

    def _active(self, name: str, point: Point) -> bool:
        """Whether `name` is searched, given the values above it."""
        when = self.conditions.get(name)
        return when is None or (when.parent in point and point[when.parent] in when.values)

    def _field_problems(self) -> list[str]:
        problems = [] if self.parameters else ["parameters: nothing to search"]
        known = set(field_names())
        for name in (*self.parameters, *self.fixed):
            if name not in known:
                near = nearest_field(name)
                problems.append(f"{name}: no such field" + (f'; did you mean "{near}"?' if near else ""))
        both = sorted(set(self.parameters) & set(self.fixed))
        return problems + [f"{name}: both searched and fixed; choose one" for name in both]

    def _condition_problems(self) -> list[str]:
        problems, order = [], list(self.parameters)
        for name, when in self.conditions.items():
            if name not in order:
                problems.append(f"{name}: has a condition and is not among the parameters")
            elif when.parent not in order[: order.index(name)]:
                problems.append(
                    f"{name}: its condition names {when.parent!r}, which is no parameter above it"
                )
        return problems

    def _bound_problems(self) -> list[str]:
        """Try the ends of every distribution on the base configuration."""
        problems = []
        for name, distribution in self.parameters.items():
            for value in _ends(distribution):
                try:
                    self.configure({name: value})
                except ConfigError as error:
                    problems.append(str(error).splitlines()[-1].strip())
        return problems

    def _first_problems(self) -> list[str]:
        problems = []
        for index, entry in enumerate(self.first):
            label = f"first[{index}]" + (f" ({entry})" if isinstance(entry, str) else "")
            given = {} if isinstance(entry, str) else entry
            problems += [f"{label}: {name} is not searched" for name in given if name not in self.parameters]
        for index, point in enumerate(self.first_points()):
            problems += [
                f"first[{index}]: {name}={value!r} is outside its distribution {self.parameters[name]}"
                for name, value in point.items()
                if not _contains(self.parameters[name], value)
            ]
        return problems


def load_space(path: Path) -> SearchSpace:
    """Run the Python file `path` and return its `SPACE`.

    Raises:
        UsageError: if there is no such file, it cannot be run (with its line), or it defines no `SPACE`.
        ConfigError: if the space is refused.
    """
    if not path.is_file():
        raise UsageError(
            f"no search space {path}; give a Python file that defines SPACE, as tuning/spaces/ml_1m.py does"
        )
    try:
        found = runpy.run_path(str(path)).get("SPACE")
    except SS4RecError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's Python may do
        raise UsageError(
            f"{_place(path, error)}: {type(error).__name__}: {error}; correct the space file"
        ) from None
    if not isinstance(found, SearchSpace):
        raise UsageError(
            f"{path} defines no SPACE of type tuning.space.SearchSpace (found {type(found).__name__})"
        )
    return found


def _place(path: Path, error: BaseException) -> str:
    """Return the line of the file `path` that led to `error`."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _suggest(trial: optuna.trial.BaseTrial, name: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution), distribution
    return trial.suggest_categorical(name, distribution.choices)


def _ends(distribution: BaseDistribution) -> Sequence[Value]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution), distribution
    return distribution.low, distribution.high


def _contains(distribution: BaseDistribution, value: Value) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high = _ends(distribution)
    return isinstance(value, int | float) and low <= value <= high  # type: ignore[operator]


def _condition_text(when: When | None) -> str:
    return "" if when is None else f" when {when.parent} in {json.dumps(when.values)}"
