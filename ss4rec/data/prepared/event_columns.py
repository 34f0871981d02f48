"""Columns about events of a prepared folder: which of them a model reads, and which events are targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.prepared.manifest import EventTargets, Feature, Manifest
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.errors import ConfigError
from ss4rec.model.columns import EventColumn

Wanted = tuple[str, tuple[int, ...]]
"""Column about the event, and the codes in it of events that are targets."""


def chosen_context(asked: str | tuple[str, ...], manifest: Manifest) -> tuple[EventColumn, ...]:
    """Return the columns that `model.context` means for a folder.

    Raises:
        ConfigError: for a name that the folder does not have.
    """
    known = {feature.name: feature for feature in manifest.context or ()}
    names = (() if asked == "none" else tuple(known)) if isinstance(asked, str) else asked
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(
            f"model.context has {', '.join(wrong)}, and events of {manifest.name} have {', '.join(known) or 'none'}; "
            "name some of these, or prepare the data with --context"
        )
    columns: list[EventColumn] = []
    for name in names:
        first = columns[-1].first + columns[-1].size if columns else 0
        feature = known[name]
        columns.append(
            EventColumn(
                name=name,
                first=first,
                values=None if feature.kind == "number" else feature.values or (),
                center=feature.center or 0.0,
                scale=feature.scale or 1.0,
            )
        )
    return tuple(columns)


def told_of(
    columns: Sequence[EventColumn], context: Mapping[str, npt.NDArray[Any]], features: Sequence[Feature]
) -> dict[str, npt.NDArray[np.int32]]:
    """Return what a run reads of the events of a folder that may be another than it was trained on, by column's name.

    Args:
        columns: what the run reads.
        context: columns of the folder's shards, by name with `CONTEXT`.
        features: what they mean (`Manifest.context`). A value that the run did not know is one of the others, a column
            that the folder lacks is unknown.
    """
    known = {feature.name: feature for feature in features}
    found = {}
    for column in columns:
        stored_E, feature = context.get(CONTEXT + column.name), known.get(column.name)
        if stored_E is None or feature is None or (feature.kind == "number") != (column.values is None):
            continue
        if feature.kind == "categorical":
            other = "\0"  # no value
            stored_E = column.codes_of([None, *(feature.values or ()), other])[stored_E]
        else:
            stored_E = column.codes(stored_E)
        found[column.name] = stored_E
    return found


def chosen_targets(asked: str, manifest: Manifest) -> Wanted | None:
    """Return which events `data.targets` makes targets; None: all.

    Args:
        asked: `auto`: as the folder was prepared, `all`, or `COLUMN=VALUE|VALUE`.
        manifest: the folder's.

    Raises:
        ConfigError: if there is no such column or value.
    """
    if asked == "all" or (asked == "auto" and manifest.targets is None):
        return None
    targets = manifest.targets if asked == "auto" else parse_targets(asked)
    assert targets is not None
    kinds = {
        feature.name: feature.values for feature in manifest.context or () if feature.kind == "categorical"
    }
    values = kinds.get(targets.column)
    if values is None:
        raise ConfigError(
            f"data.targets={asked}: events of {manifest.name} have the categories {', '.join(kinds) or 'none'}; "
            "prepare the data with --context"
        )
    wrong = [value for value in targets.values if value not in values]
    if wrong:
        raise ConfigError(
            f"data.targets={asked}: no event is {', '.join(wrong)}; there are {', '.join(values[:20])}"
        )
    return targets.column, tuple(values.index(value) + 1 for value in targets.values)


def parse_targets(text: str) -> EventTargets:
    """Parse `event=purchase|gift`.

    Raises:
        ConfigError: if it is not `COLUMN=VALUE`.
    """
    column, _, values = text.partition("=")
    kinds = tuple(value.strip() for value in values.split("|") if value.strip())
    if not column.strip() or not kinds:
        raise ConfigError(f"{text!r} is not COLUMN=VALUE; write as in event=purchase, or event=purchase|gift")
    return EventTargets(column=column.strip(), values=kinds)
