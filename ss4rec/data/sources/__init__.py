"""Sources of ratings: find the layout of a zip, a folder or a file, and read its rows in file order.

Shapes: R rows in file order; S the same rows sorted by user and time; T those of them that share user and second with
another; Q quotes of a text; N its bytes; I items of a catalogue; G genres. E in `ties` are events of a prepared folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.checks import Parsed, Rules, concatenated
from ss4rec.data.sources.columns import ROLES
from ss4rec.data.sources.features import FeatureTable
from ss4rec.data.sources.head import read_fully
from ss4rec.data.sources.json_lines import JsonPlan, parse_json_block
from ss4rec.data.sources.layouts import LAYOUTS, TABLE, Layout
from ss4rec.data.sources.packed import damage_named, unreadable_kind
from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.plan_table import OTHER_SUFFIXES, SUFFIXES, Plan, TableOptions, plan_table
from ss4rec.data.sources.rows import CONTEXT, Catalogue, UserProfiles
from ss4rec.data.sources.table import ParquetPlan, open_parquet, parse_groups
from ss4rec.data.sources.text import TextPlan, line_blocks, parse_block
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, RemotePath, to_path

__all__ = ["Archive", "Rules", "Source", "TableOptions", "resolve_source"]


@dataclass(frozen=True)
class Source:
    """A source that is open, its layout found and its reading planned: once, for everything that follows."""

    archive: Archive
    """Its files."""
    plan: Plan
    """How its ratings lie."""
    layout: Layout
    """What else it may say, and where."""

    @classmethod
    def open(
        cls,
        path: AnyPath,
        options: Mapping[str, str] | TableOptions | None = None,
        called: str | None = None,
    ) -> Source:
        """Find the layout of a source and how its ratings lie.

        Args:
            path: a zip, a folder or a file.
            options: what the user says about a table; a mapping names the column of `user`, `item`, `time`, `rating`.
                What is not named is guessed from the common names. Given, only a table is looked for, and none of the
                layouts of GroupLens and RecBole.
            called: what messages call the source; by default its path.

        Raises:
            DataError: if no layout fits.
        """
        given = options if isinstance(options, TableOptions) else TableOptions(columns=dict(options or {}))
        unknown = sorted(set(given.columns) - set(ROLES))
        if unknown:
            raise DataError(f"--columns knows {', '.join(ROLES)}, not {', '.join(unknown)}")
        archive = Archive(path, called)
        for layout in LAYOUTS if not given.any else ():
            name = archive.find(layout.patterns)
            plan = layout.plan(archive, name) if name is not None else None
            if plan is not None and (chosen := _with_context(plan, given)) is not None:
                return cls(archive, chosen, layout)
        return cls(archive, plan_table(archive, _table_files(archive), given), TABLE)

    @property
    def path(self) -> AnyPath:
        """Where it lies."""
        return self.archive.path

    @property
    def files(self) -> list[str]:
        """The files with the ratings, in order."""
        return [part.file for part in self.plan.parts]

    @property
    def bytes(self) -> int:
        """About how many bytes the files with the ratings have, unpacked."""
        return sum(self.archive.size(file) for file in self.files)

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the columns about the event that are read."""
        roles = [*self.plan.roles, *(role for role, _ in self.plan.parts[0].values)]
        return tuple(role.removeprefix(CONTEXT) for role in roles if role.startswith(CONTEXT))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how it is read."""
        return self.plan.notes

    def catalogue(self) -> Catalogue | None:
        """Return what it says about items."""
        return self.layout.catalogue(self.archive, self.plan.file)

    def profiles(self) -> UserProfiles | None:
        """Return what it says about users."""
        return self.layout.profiles(self.archive, self.plan.file)

    def item_features(self) -> FeatureTable | None:
        """Return other columns that it has about items."""
        return self.layout.features(self.archive, self.plan.file)

    def with_quotes(self) -> Source:
        """Return the same source, read as one whose fields may be quoted and hold line breaks."""
        assert isinstance(self.plan, TextPlan)
        return replace(self, plan=replace(self.plan, quoted=True))

    def read(self, rules: Rules | None = None) -> Parsed:
        """Read all rows, numbered as a person counts them in the file.

        Args:
            rules: what a row must be; by default it needs an id of a user and an item, a time and a finite rating.

        Raises:
            DataError: if a file is damaged or has no rows.
        """
        parts = list(self._parse_all(rules or Rules()))
        if not sum(part.rows for part in parts):
            raise DataError(f"{self.plan.where} has no rows; give a file with ratings")
        return concatenated(parts, self.plan.first_row)

    def _parse_all(self, rules: Rules) -> Iterator[Parsed]:
        """Parse a source from its beginning to its end, a block at a time."""
        is_first = True
        for part in self.plan.parts:
            if isinstance(self.plan, ParquetPlan):
                with open_parquet(self.archive, part.file) as file:
                    for group in range(file.num_row_groups):
                        yield parse_groups(file, [group], self.plan, rules, part, is_first=is_first)
                        is_first = False
                continue
            with data_stream(self.archive, part) as stream:
                for block in line_blocks(read_stream(stream, self.archive.where(part.file)), self.plan):
                    yield parse_lines(block, self.plan, rules, part, is_first=is_first)
                    is_first = False


def _with_context(plan: TextPlan, options: TableOptions) -> TextPlan | None:
    """Return a plan that reads these columns about the event of all that it could; None if it has one of them not.

    A plan of a layout reads all that there are unless some are named.
    """
    wanted = {CONTEXT + name for name in options.about_events}
    if not wanted <= plan.roles.keys():
        return None
    if not options.context:
        return plan
    roles = {
        role: name for role, name in plan.roles.items() if role in wanted or not role.startswith(CONTEXT)
    }
    return replace(plan, roles=roles, types={role: plan.types[role] for role in roles})


def resolve_source(text: str) -> AnyPath:
    """Return the path that `text` names: itself, or `data/<text>.zip` for a bare name such as `ml-1m`.

    Raises:
        DataError: if neither exists.
    """
    path = to_path(text)
    if isinstance(path, RemotePath):
        return path
    if path.exists():
        return path
    if path.name != text or path.suffix:
        raise DataError(f"{text} does not exist; give a zip, a folder or a file of ratings")
    archive = Path("data") / f"{text}.zip"
    if not archive.exists():
        raise DataError(f"there is no {archive}; run `ss4rec data get {text}` or give a path")
    return archive


def parse_lines(text: bytes, plan: Plan, rules: Rules, part: Part, *, is_first: bool = False) -> Parsed:
    """Turn a block of whole lines into columns; as `text.parse_block`, whatever the lines are."""
    if isinstance(plan, JsonPlan):
        return parse_json_block(text, plan, rules, part, is_first=is_first)
    assert isinstance(plan, TextPlan)
    return parse_block(text, plan, rules, part, is_first=is_first)


@contextmanager
def data_stream(archive: Archive, part: Part) -> Iterator[IO[bytes]]:
    """Open a file with ratings behind its header."""
    with archive.open(part.file) as stream:
        with damage_named(archive.where(part.file)):
            read_fully(stream, part.start)
        yield stream


def read_stream(stream: IO[bytes], where: str, piece_bytes: int = 4 << 20) -> Iterator[bytes]:
    """Yield a stream in pieces.

    Raises:
        DataError: if the zip behind it is damaged.
    """
    with damage_named(where):
        while piece := stream.read(piece_bytes):
            yield piece


def _table_files(archive: Archive) -> list[str]:
    """Return the files of the one table in a source; a file that was given by itself may have any name.

    Raises:
        DataError: if there is none, or several.
    """
    if archive.is_file:
        kind = unreadable_kind(archive.given[0])
        if kind:
            raise DataError(f"{archive.path} {kind}")
        return archive.given
    for suffixes in (SUFFIXES, OTHER_SUFFIXES):
        found = archive.find_table(suffixes)
        if found:
            return found
    for name in archive.names:
        kind = unreadable_kind(PurePosixPath(name).name)
        if kind:
            raise DataError(f"{archive.path} has no table that can be read; {name} {kind}")
    wanted = [pattern for layout in LAYOUTS for pattern in layout.patterns]
    wanted += [f"*{suffix}" for suffix in (*SUFFIXES, *OTHER_SUFFIXES)]
    holds = ", ".join(archive.names[:8]) or "no files"
    raise DataError(
        f"{archive.path} has no known layout: looked for {', '.join(wanted)}; found {holds}. "
        "If one of them is a table, give it as the source"
    )
