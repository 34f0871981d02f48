"""Known events: dates from a TOML file that are drawn in the report, so that a reader can tell a cause from drift.

    [[event]]
    date = 2017-03-01
    name = "redesign of the rating widget"

`movielens.toml` beside this file is for MovieLens.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from drift.calendar import Window
from ss4rec.errors import UsageError

SHIPPED = Path(__file__).parent
"""Folder of the files that come with ss4rec."""


class KnownEvent(BaseModel):
    """Something that happened outside of the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: date
    """Day, UTC."""
    name: str
    """What happened."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    event: list[KnownEvent]


def read_events(path: Path) -> list[KnownEvent]:
    """Read a file of events, in order of time.

    Raises:
        UsageError: if it cannot be read or is none; says what is wrong with which entry.
    """
    try:
        found = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--events {path} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"--events {path}: {where}: {first['msg']}; write [[event]] tables with date = 2017-03-01 and a name"
        ) from None
    return sorted(found.event, key=lambda event: event.date)


def event_records(events: Sequence[KnownEvent], windows: Sequence[Window]) -> list[dict[str, Any]]:
    """Return `date`, `name` and the name of the window that holds it (None outside of all)."""
    records = []
    for event in events:
        at_s = int(datetime(event.date.year, event.date.month, event.date.day, tzinfo=UTC).timestamp())
        inside = [window.name for window in windows if window.start_s <= at_s < window.end_s]
        records.append({"date": str(event.date), "name": event.name, "window": inside[0] if inside else None})
    return records
