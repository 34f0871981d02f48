"""The steps of a cycle. Each gives the same result when it is done twice, so a killed loop does its last one again."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.calendar import DAY_S, SECONDS, Window, calendar, full_windows
from drift.plan import check_contract
from drift.report.contents import Report
from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.split import PAST, TIMELINE, SplitRecord, parse_cut, split
from ss4rec.errors import ConfigError, ContractError, DataError
from ss4rec.io.atomic import new_folder, write_json
from ss4rec.loop.compare import Gate, compare_on_gate, cut_of
from ss4rec.loop.settings import How, WatchConfig
from ss4rec.presets import AUTO, preset
from ss4rec.protocol.settings import Protocol
from ss4rec.registry import ModelRegistry
from ss4rec.runs.folder import RESULT_FILE
from ss4rec.train.status import say
from ss4rec.train.warm import Parent, cold_config, warm_config

REPORT, LOOKED, TRAINING, CHALLENGER, COMPARISON = (
    "report",
    "looked",
    "training",
    "challenger",
    "comparison.json",
)
HELD_OUT_USERS, HELD_OUT_SHARE = 4000, 0.1
"""Minimum users whose last events choose a model, and their share where there are more."""


@dataclass(frozen=True)
class Place:
    """Where a cycle stands."""

    config: WatchConfig
    folder: Path
    """The cycle's own folder."""
    address: str | None
    """Ray cluster."""

    @property
    def data(self) -> PreparedFolder:
        """The data."""
        return PreparedFolder.open(Path(self.config.data))

    @property
    def registry(self) -> ModelRegistry:
        """The model's registry."""
        return ModelRegistry(Path(self.config.model))


def ended_windows(config: WatchConfig, data: PreparedFolder, cut_s: int | None) -> list[Window]:
    """Return the windows that have ended after a cut; None: all of the data."""
    look, last_s = config.look, data.manifest.last_time_s
    first_s = data.manifest.first_time_s if cut_s is None else cut_s + 1
    if last_s <= first_s:
        return []
    anchor_s = first_s if look.anchor == "cut" else None
    windows = calendar(look.window, first_s, last_s, anchor_s)
    slack_s = 0 if look.window in SECONDS else DAY_S
    return [windows[number] for number in full_windows(windows, first_s, last_s, slack_s)]


def look(place: Place, last: dict[str, Any] | None) -> dict[str, Any]:
    """Look at what came after the champion's cut; returns the line of the journal.

    Args:
        place: the cycle.
        last: the line of the look before, or None.
    """
    version = place.registry.champion_version()
    run = None if version is None else place.registry.folder(version)
    cut_s = None if run is None else cut_of(run)
    windows = ended_windows(place.config, place.data, cut_s)
    before_s = -1 if last is None else int(last["last_end_s"])
    new = [window for window in windows if window.end_s > before_s]
    found: dict[str, Any] = {
        "champion": version,
        "cut_s": cut_s,
        "windows": [window.name for window in windows],
        "last_end_s": max([before_s, *(window.end_s for window in windows)]),
        "ended_windows": (0 if last is None else int(last["ended_windows"])) + len(new),
        "spare_windows": len(windows) - place.config.compare.gate_windows,
        "report": None,
    }
    if run is None or cut_s is None or not windows:
        return found
    parts = cut(place, place.folder / LOOKED, cut_s)
    try:
        check_contract(parts, SplitRecord.load(parts), run)
    except ContractError as error:
        return found | {"past_changed": str(error)}
    report = _report(place, run, parts, _earlier(last, version))
    verdicts = report.verdicts.model_dump(mode="json")
    return found | {
        "report": str(place.folder / REPORT),
        "headline": report.headline,
        "new_windows": report.new_windows,
        "verdicts": {name: None if one is None else one["now"] for name, one in verdicts.items()},
        "quality": report.quality[-1] if report.quality else None,
    }


def _earlier(last: dict[str, Any] | None, version: int | None) -> Path | None:
    """Return the folder of the last report on this champion."""
    if last is None or last["champion"] != version or not last["report"]:
        return None
    folder = Path(last["report"])
    return folder if folder.is_dir() else None


def _report(place: Place, run: Path, parts: Path, earlier: Path | None) -> Report:
    """Write the report of this look, from what the last one counted where that still holds."""
    from drift.job import run_drift

    out = place.folder / REPORT
    if (out / "report.json").is_file():
        return Report.load(out)
    if earlier is not None:
        try:
            with new_folder(out) as draft:
                shutil.copytree(earlier, draft, dirs_exist_ok=True)
                report, _ = run_drift(
                    parts, run, draft, place.config.look, since_last=True, address=place.address
                )
            return report
        except (ContractError, DataError) as error:  # another [look], or a report of an earlier version
            say(f"watch: all windows are looked at again, since {error}")
    with new_folder(out) as draft:
        report, _ = run_drift(parts, run, draft, place.config.look, address=place.address)
    return report


def cut(place: Place, out: Path, cut_s: int) -> Path:
    """Cut the data, once; returns the folder of `past/` and `timeline/`."""
    if not out.is_dir():
        with new_folder(out) as draft:
            split(Path(place.config.data), draft, cut_s, k_core=place.config.train.k_core)
    return out


def gate_of(place: Place, cut_s: int | None) -> Gate:
    """Return the last windows, on which both models are compared.

    Raises:
        DataError: if the data are too short for them.
    """
    windows = ended_windows(place.config, place.data, cut_s)
    count = place.config.compare.gate_windows
    if len(windows) <= count:
        raise DataError(
            f"{place.data} has {len(windows)} whole {place.config.look.window}s to train and compare on; "
            f"compare.gate_windows={count} needs {count + 1}"
        )
    return Gate(windows[-count].start_s, windows[-1].end_s)


def training_cut_s(place: Place, cut_s: int | None) -> int:
    """Return the last second that a challenger trains on: up to the gate, or `first_cut` for the first model."""
    if cut_s is None and place.config.first_cut is not None:
        return parse_cut(place.config.first_cut)
    return gate_of(place, cut_s).start_s - 1


def train(place: Place, looked: dict[str, Any], how: How) -> dict[str, Any]:
    """Train a challenger, or go on with its training; returns the line of the journal."""
    from ss4rec.train.run import train as train_on_ray

    run = place.folder / CHALLENGER
    began = time.monotonic()
    parts = cut(place, place.folder / TRAINING, training_cut_s(place, looked["cut_s"]))
    if not (run / RESULT_FILE).is_file():
        past = PreparedFolder.open(parts / PAST)
        champion = looked["champion"]
        parent = None if champion is None else Parent.open(place.registry.folder(champion))
        config = training_config(place.config, parent, how, past)
        train_on_ray(config, past, run, address=place.address)
    return {
        "run": str(run),
        "how": how,
        "seconds": round(time.monotonic() - began, 1),
        "ended_windows": looked["ended_windows"],
    }


def training_config(
    config: WatchConfig, parent: Parent | None, how: How, past: PreparedFolder
) -> RunConfig | Auto:
    """Return the configuration of a challenger: the champion's, with `train.set`, or that of the preset.

    Raises:
        ConfigError: for a refused field, or one that a warm start cannot change.
    """
    fields, minutes = dict(config.train.set), config.train.minutes
    if how == "warm" and parent is None:
        raise ConfigError("a warm start needs a champion, and there is none")
    if parent is None and config.train.preset == AUTO:
        return Auto(first_protocol(past), fields, minutes)
    if minutes is not None:
        fields = {"train.max_minutes": minutes, "train.fit_minutes": True} | fields
    if parent is None:
        start = override(
            preset(config.train.preset), {"protocol.held_out_users": first_protocol(past).held_out_users}
        )
    else:
        start = cold_config(parent.config)
    asked = override(start, fields)
    return asked if how == "cold" or parent is None else warm_config(asked, parent, past, fields)


def first_protocol(past: PreparedFolder) -> Protocol:
    """Return what trains and chooses the first model; later ones take it from the champion.

    A model that will be used has to learn the latest events, so only few users have any held out.
    """
    return Protocol(held_out_users=max(HELD_OUT_USERS, round(HELD_OUT_SHARE * past.manifest.users)))


def compare(place: Place, looked: dict[str, Any], run: Path) -> dict[str, Any]:
    """Compare the challenger with the champion on `look.workers` workers; returns the line of the journal."""
    from drift.ray_passes import rankers
    from ss4rec.cluster.connect import cluster

    parts = place.folder / TRAINING
    gate = gate_of(place, looked["cut_s"])
    champion = place.registry.folder(looked["champion"])
    timeline = PreparedFolder.open(parts / TIMELINE)
    with cluster(place.address), rankers(place.config.look.workers) as rank:
        found = compare_on_gate(champion, run, timeline, gate, place.config.compare, rank).plain()
    write_json(place.folder / COMPARISON, found)
    return found


def promote(place: Place, looked: dict[str, Any], run: Path, judged: dict[str, Any] | None) -> dict[str, Any]:
    """Let the challenger serve if it may; returns the line of the journal."""
    if judged is not None and not judged["promote"]:
        return {"promoted": False, "version": looked["champion"], "reason": judged["reason"], "told": []}
    from ss4rec.registry.aliases import tell_trackers

    reason = "It is the first model." if judged is None else judged["reason"]
    registry = place.registry
    version = registry.add(run, note=f"trained by the loop in {place.folder}").version
    registry.promote(version, reason, judged or {})
    told = tell_trackers(registry.folder(version))
    return {"promoted": True, "version": version, "reason": reason, "told": told}
