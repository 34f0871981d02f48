"""How to read a table of any kind: which files, which columns, what times mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.times import TimeRule


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """What the plans of delimited text, JSON lines and Parquet share."""

    layout: str
    """Name of the layout."""
    parts: tuple[Part, ...]
    """Its files."""
    where: str
    """What messages call it."""
    roles: dict[str, str]
    """Column or key of `user`, `item`, `time` and perhaps `rating`, as far as they stand in the files."""
    first_row: int = 1
    """Number of the first data row as a person counts: 1, or 2 below a header."""
    times: TimeRule = field(default_factory=TimeRule)
    """What times mean."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read."""

    @property
    def file(self) -> str:
        """The first file."""
        return self.parts[0].file
