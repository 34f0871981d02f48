"""What is said about items, compared with before: labels that were lost are a fault, not a change of taste."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from drift.report.contents import Change
from drift.report.rules import LOOK
from drift.report.words import percent

MIN_SHARE = 0.01
"""Share of items with other metadata that is worth an alarm."""


def compare_items(before: pa.Table, now: pa.Table, against: str) -> dict[str, Any]:
    """Compare titles and genres of the items in both tables.

    Args:
        before: `items.parquet` of the run, or of the report before.
        now: that of the timeline.
        against: what `before` is of, for the reader.
    """
    at = pc.index_in(before["source_id"], value_set=now["source_id"].combine_chunks())
    found = pc.is_valid(at)
    old, new = before.filter(found), now.take(at.filter(found))
    sides = [[_genres(entry) for entry in side["genres"].to_pylist()] for side in (old, new)]
    lost = sum(bool(was) and not is_ for was, is_ in zip(*sides, strict=True))
    titles = [side["title"].to_pylist() for side in (old, new)]
    return {
        "against": against,
        "items": old.num_rows,
        "genres_lost": lost,
        "genres_changed": sum(was != is_ for was, is_ in zip(*sides, strict=True)) - lost,
        "titles_changed": sum(was != is_ for was, is_ in zip(*titles, strict=True)),
        "examples": [title for title, was, is_ in zip(titles[0], *sides, strict=True) if was and not is_][:5],
    }


def _genres(entry: list[str] | None) -> frozenset[str]:
    return frozenset(entry or ()) - {"(no genres listed)"}


def metadata_change(found: dict[str, Any] | None, fresh: Sequence[str], names: Sequence[str]) -> list[Change]:
    """Return the change that a comparison of metadata amounts to, if it does."""
    if found is None or not found["items"]:
        return []
    first = next((name for name in names if name in fresh), names[-1])
    changes: list[Change] = []
    for name, field, words in (
        ("genre labels lost", "genres_lost", "have no genre any more"),
        ("item labels changed", "titles_changed", "have another title"),
        ("item labels changed", "genres_changed", "have other genres"),
    ):
        share = found[field] / found["items"]
        if share < MIN_SHARE or any(change.name == name for change in changes):
            continue
        changes.append(
            Change(
                name=name,
                kind="pipeline",
                first=first,
                peak=first,
                last=names[-1],
                ongoing=True,
                sudden=True,
                severity="severe" if share >= 0.1 else "drift",
                ratio=round(share / MIN_SHARE, 3),
                signals=["metadata"],
                sentence=f"{name[0].upper()}{name[1:]} since {first}: {found[field]:,} of {found['items']:,} items "
                f"({percent(share)}) {words}, compared with {found['against']}.",
                action=LOOK,
                details=[f"for example {'; '.join(map(str, found['examples']))}"]
                if found["examples"]
                else [],
            )
        )
    return changes
