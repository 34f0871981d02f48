"""Sweeps and drift reports: both run on Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ss4rec.api.data import AnyFolder, TimeSplit, local_folder
from ss4rec.api.results import Run
from ss4rec.config import RunConfig, override, parse_config, parse_section
from ss4rec.errors import ConfigError
from ss4rec.io.untrusted import read_json
from ss4rec.presets import preset

if TYPE_CHECKING:
    import pandas as pd

    from drift.config import DriftConfig
    from drift.events import KnownEvent
    from drift.report.contents import Report
    from tuning.space import SearchSpace


@dataclass(frozen=True)
class Sweep:
    """What `tune` left."""

    path: Path
    """The sweep's folder, absolute; `report.html` lies there."""
    summary: Mapping[str, Any]
    """The content of `sweep.json`."""

    @property
    def best_config(self) -> RunConfig:
        """Configuration of the best trial, to train with."""
        return parse_config(read_json(self.path / "best.json")["config"])

    @property
    def best_value(self) -> float:
        """Value of the first objective in the best trial, on validation."""
        return float(self.summary["best"]["values"][0])

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial, as `optuna.Study.trials_dataframe` gives them."""
        import optuna

        storage = f"sqlite:///{self.path / 'study.db'}"
        study = optuna.load_study(study_name=self.path.name, storage=storage)
        frame: pd.DataFrame = study.trials_dataframe()
        return frame


@dataclass(frozen=True)
class DriftResult:
    """What `drift` found."""

    path: Path
    """The report's folder, absolute; `report.html` lies there."""
    report: Report
    """The content of `report.json`."""
    exit_code: int
    """That of the command: 0 fine, 10 at or above `fail_on`, 1 if a part of the report failed."""

    @property
    def verdict(self) -> str:
        """`none`, `noted`, `drift`, `severe`, or `undecided` for too few users."""
        return self.report.verdict

    @property
    def headline(self) -> str:
        """The finding in one sentence."""
        return self.report.headline

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per comparison of a signal in a window."""
        import pandas as pd

        return pd.DataFrame(self.report.cells)


def tune(
    data: AnyFolder,
    space: SearchSpace | str | os.PathLike[str],
    *,
    name: str,
    storage: str | os.PathLike[str] = "runs",
    config: RunConfig | str | None = None,
    changes: Mapping[str, Any] | None = None,
    address: str | None = None,
    **search: Any,
) -> Sweep:
    """Search hyperparameters with Ray Tune and Optuna; `ss4rec tune`.

    Args:
        data: the prepared folder.
        space: what is searched, or a Python file that defines SPACE.
        name: name of the sweep; the same name continues one.
        storage: parent of the sweep's folder.
        config: configuration of what is not searched, or a preset's name; by default the space's own.
        changes: fields to change in it, as for `train`.
        address: Ray cluster, as for `train`.
        search: fields of `tuning.sweep.SweepConfig`: `trials`, `objectives`, `pruner`, `grace_epochs`, `seed`,
            `trials_per_gpu`, `concurrent`, `minutes`.

    Raises:
        ConfigError: for an unknown field, or one that is both searched and given.
        SS4RecError: any other expected failure; also if no trial reached its end.
    """
    from tuning.space import SearchSpace, load_space
    from tuning.sweep import SweepConfig, run_sweep

    chosen = space if isinstance(space, SearchSpace) else load_space(Path(space))
    base = chosen.start() if config is None else config if isinstance(config, RunConfig) else preset(config)
    if searched := sorted(set(changes or {}) & set(chosen.parameters)):
        raise ConfigError(f"{', '.join(searched)}: searched by the space; take it out there, or here")
    folder = Path(storage).resolve() / name
    settings = parse_section(SweepConfig, search, "search")
    base = override(base, changes) if changes else base
    summary = run_sweep(chosen, local_folder(data), folder, settings, base=base, address=address)
    return Sweep(folder, summary)


def drift(
    data: TimeSplit | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    run: Run | str | os.PathLike[str] | None = None,
    config: DriftConfig | None = None,
    changes: Mapping[str, Any] | None = None,
    retrained: Sequence[Run | str | os.PathLike[str]] = (),
    events: Sequence[KnownEvent] = (),
    since_last: bool = False,
    address: str | None = None,
) -> DriftResult:
    """Report what changed after a cut in time; `ss4rec drift`.

    Args:
        data: what `split` wrote.
        out: folder of the report.
        run: run that was trained on `data.past`; None looks at the data alone.
        config: windows, tests and thresholds.
        changes: fields to change in it, as in `{"window": "year"}`.
        retrained: runs on later cuts of the same data, drawn beside `run`.
        events: known events to draw.
        since_last: add only new windows to the report in `out`.
        address: Ray cluster, as for `train`.

    Raises:
        ContractError: if data, cut and run do not belong together.
        ConfigError, UsageError: for what can be put right.
    """
    from drift.config import DriftConfig
    from drift.job import run_drift

    start = config or DriftConfig()
    chosen = parse_section(DriftConfig, start.model_dump() | dict(changes or {}), "drift configuration")
    split = data if isinstance(data, TimeSplit) else TimeSplit.open(data)
    folder = Path(out).resolve()
    report, code = run_drift(
        split.path,
        None if run is None else Run(run).path,
        folder,
        chosen,
        retrained=[Run(one).path for one in retrained],
        events=events,
        since_last=since_last,
        address=address,
    )
    return DriftResult(folder, report, code)
