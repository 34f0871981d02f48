"""Data that grow by years or days, and trainings on what was there by then; everything is kept and done once."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch

from drift.calendar import Kind, Window, calendar, full_windows
from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.split import PAST, TIMELINE, split
from ss4rec.io.atomic import new_folder, write_json
from ss4rec.loop.settings import How
from ss4rec.loop.steps import first_protocol
from ss4rec.presets import AUTO, preset
from ss4rec.runs.folder import RESULT_FILE
from ss4rec.train.warm import Parent, cold_config, warm_config
from ss4rec.train.worker import train_alone

LR_SHARE = "lr_share"
"""No field of a run: the learning rate of a warm training as a share of its parent's."""
FIXED: dict[str, Any] = {
    "tracking.wandb": "disabled",
    "data.source": "local",
    "train.status_every_s": 60.0,
    "train.checkpoint_every_s": 3600.0,
}


@dataclass(frozen=True)
class DataSet:
    """A data set that is lived through window by window."""

    archive: str
    """File in the folder of archives."""
    window: Kind
    first_cut: str
    """Last day of the first training."""
    last_end: str
    """First day that is not lived through any more."""
    k_core: int
    """Of what a model trains on."""


SETS = {
    "union": DataSet("ml-union-open.zip", "year", "2014-12-31", "2023-01-01", 5),
    "globo": DataSet("globo-news.zip", "day", "2017-10-06", "2017-10-17", 3),
    "ml-1m": DataSet("ml-1m.zip", "month", "2000-11-30", "2001-01-01", 5),
}


def day_s(text: str) -> int:
    """Return the first second of a day (UTC)."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def once(path: Path, make: Callable[[], Any]) -> Any:
    """Return what `path` holds as JSON, or make it now and keep it."""
    with locked(path):
        if not path.exists():
            write_json(path, make())
    return json.loads(path.read_text())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`: several policies that live side by side share what they make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def one_on_a_card(work: Path) -> AbstractContextManager[None]:
    """Let one process at a time train on the card that CUDA_VISIBLE_DEVICES names: its seconds are card seconds."""
    return locked(work / "cards" / os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


@dataclass(frozen=True)
class Growing:
    """One data set in a work folder.

    Args:
        name: of the set.
        archives: folder of archives.
        work: folder of everything that is kept.
        share: share of the users, drawn by a hash of their ids, for small machines.
        preset: what the first model is trained with; the others take its configuration.
    """

    name: str
    archives: Path
    work: Path
    share: float = 1.0
    preset: str = AUTO

    @property
    def about(self) -> DataSet:
        """The set."""
        return SETS[self.name]

    @property
    def folder(self) -> Path:
        """Where this set is kept."""
        part = "" if self.share == 1.0 else f"-{self.share:g}"
        return self.work / f"{self.name}{part}"

    @property
    def runs(self) -> Path:
        """Where its trainings are kept."""
        return self.folder / f"runs-{self.preset}"

    def whole(self) -> PreparedFolder:
        """Return all events, prepared without a core."""
        out = self.folder / "whole"
        with locked(out):
            if not out.exists():
                source = self.archives / self.about.archive
                if self.share < 1.0:
                    source = self._sample(source)
                prepare(source, out, k_core=0)
        return PreparedFolder.open(out)

    def _sample(self, source: Path) -> Path:
        """Write the events of some users as a table of their own."""
        with zipfile.ZipFile(source) as archive:
            name = next(n for n in archive.namelist() if n.endswith(("interactions.csv", "ratings.csv")))
            with archive.open(name) as file:
                table = pa.csv.read_csv(file)
        users = table.column(0)
        ids = np.array([hash_of(user) for user in pc.unique(users).to_pylist()])
        kept = pc.unique(users).filter(pa.array(ids < self.share))
        path = self.folder / "sample.csv"
        pa.csv.write_csv(table.filter(pc.is_in(users, value_set=kept)), path)
        return path

    def windows(self) -> list[Window]:
        """Return the windows that are lived through, in order of time."""
        first_s, end_s = day_s(self.about.first_cut) + 86_400, day_s(self.about.last_end)
        windows = calendar(self.about.window, first_s, end_s - 1)
        return [windows[number] for number in full_windows(windows, first_s, end_s - 1)]

    def cut(self, cut_s: int) -> Path:
        """Return the folder of `past/` and `timeline/` of a cut."""
        out = self.folder / "cuts" / str(cut_s)
        self.whole()
        with locked(out):
            if not out.exists():
                with new_folder(out) as draft:
                    split(self.folder / "whole", draft, cut_s, k_core=self.about.k_core)
        return out

    def timeline(self, cut_s: int) -> PreparedFolder:
        """Return all events, whose items begin with those of the past of a cut."""
        return PreparedFolder.open(self.cut(cut_s) / TIMELINE)

    def trained(
        self,
        cut_s: int,
        how: How,
        minutes: float,
        parent: Path | None = None,
        changes: dict[str, Any] | None = None,
    ) -> tuple[Path, float]:
        """Return a run on the past of a cut, and the seconds that it took; the same training is done once.

        Args:
            cut_s: last second of the past.
            how: from nothing, or from `parent`.
            minutes: time for it.
            parent: run to go on from; for a training from nothing the run whose recipe it takes.
            changes: fields to change.
        """
        # The ancestry of a warm chain would soon be longer than the name of a file may be.
        start = f"-from-{sha256(parent.name.encode()).hexdigest()[:12]}" if how == "warm" and parent else ""
        marks = "".join(
            f"-{name.rpartition('.')[2]}={value}" for name, value in sorted((changes or {}).items())
        )
        run = self.runs / f"{how}-{cut_s}-{minutes:g}min{marks}{start}"
        kept = once(
            run.with_name(f"{run.name}.json"),
            lambda: self._train(run, cut_s, how, minutes, parent, changes or {}),
        )
        return run, float(kept["seconds"])

    def _train(
        self, run: Path, cut_s: int, how: How, minutes: float, parent: Path | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        past = PreparedFolder.open(self.cut(cut_s) / PAST)
        config = self._config(past, how, minutes, parent, changes, device.type == "cuda")
        with one_on_a_card(self.work):
            outcome = train_alone(config, past, run, device)
        write_json(run / RESULT_FILE, {"run": run.name, "training": outcome.as_dict()})
        return {"seconds": outcome.elapsed_s} | outcome.as_dict()

    def _config(
        self,
        past: PreparedFolder,
        how: How,
        minutes: float,
        parent: Path | None,
        changes: dict[str, Any],
        gpu: bool,
    ) -> RunConfig:
        fields = FIXED | {"train.max_minutes": minutes, "train.fit_minutes": True} | changes
        if parent is None:
            protocol = first_protocol(past)
            start = Auto(protocol, FIXED, minutes)(past, gpu) if self.preset == AUTO else preset(self.preset)
            return override(start, fields | {"protocol.held_out_users": protocol.held_out_users})
        before = Parent.open(parent)
        if LR_SHARE in fields:
            fields["optim.lr"] = before.config.optim.lr * float(fields.pop(LR_SHARE))
        asked = override(cold_config(before.config), fields)
        return warm_config(asked, before, past, fields) if how == "warm" else asked


def hash_of(user: Any) -> float:
    """Return a number from 0 to 1 that depends on nothing but the user's id."""
    from ss4rec.data.ids import stable_keys

    key = int(stable_keys([user])[0])
    return ((key * 0x9E3779B97F4A7C15) & (2**64 - 1)) / 2**64
