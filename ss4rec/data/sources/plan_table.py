"""Planning how to read a table with named or numbered columns: text, JSON lines or Parquet, in one file or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pyarrow as pa

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.columns import choose_columns, is_known, role_columns, twice_named
from ss4rec.data.sources.head import (
    Head,
    by_number,
    delimiter_of,
    find_head,
    first_bytes,
    is_name,
    look,
    unique_names,
)
from ss4rec.data.sources.json_lines import JsonPlan, sample_objects, time_array, type_of
from ss4rec.data.sources.packed import bare_name
from ss4rec.data.sources.parts import Part, hive_values
from ss4rec.data.sources.quotes import refuse_quotes_of_file
from ss4rec.data.sources.rows import is_category
from ss4rec.data.sources.table import ParquetPlan, check_types, open_parquet
from ss4rec.data.sources.text import ID, TextPlan, infer_type
from ss4rec.data.sources.times import TimeRule, Unit, choose_rule, parsed_or_null, refuse_few_digits
from ss4rec.errors import DataError

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Suffixes of delimited text, and the delimiter that each suggests."""
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".ndjson", *PARQUET_SUFFIXES)
"""What is looked for in a folder or a zip at first."""
OTHER_SUFFIXES = (".json", ".txt", ".dat", ".data", ".log")
"""What is looked for if there is none of these."""
TIME_TYPES = (pa.int64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
"""What the times of delimited text may be, tried in this order."""
Plan = TextPlan | JsonPlan | ParquetPlan


@dataclass(frozen=True)
class TableOptions:
    """What the user says about a table."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column of `user`, `item`, `time`, `rating`: its name, or its number from 1."""
    delimiter: str | None = None
    """Delimiter of text; None: found."""
    time_unit: Unit | None = None
    """Unit of times that are numbers; None: found by their size."""
    time_format: str | None = None
    """Format of times that are texts or whole numbers, as for `strptime`; None: ISO 8601."""

    context: tuple[str, ...] = ()
    """Columns about the event, by name or number; of RecBole's files all are read where none is named."""
    kind_column: str | None = None
    """Column of the kind of event, where it says which are targets: it is read in any case."""

    @property
    def about_events(self) -> tuple[str, ...]:
        """All columns about the event that are asked for."""
        more = (self.kind_column,) if self.kind_column and self.kind_column not in self.context else ()
        return (*self.context, *more)

    @property
    def any(self) -> bool:
        """Whether anything is said about the columns of ratings."""
        return bool(self.columns) or any((self.delimiter, self.time_unit, self.time_format))


def plan_table(archive: Archive, names: Sequence[str], options: TableOptions) -> Plan:
    """Plan how to read a table.

    Args:
        archive: the source.
        names: its files, in order.
        options: what the user says.

    Raises:
        DataError: if the files are no table of ratings, or differ.
    """
    where = archive.where(names[0]) if len(names) == 1 else f"{archive.path} ({len(names)} files)"
    suffix = PurePosixPath(bare_name(names[0])).suffix
    notes = () if len(names) == 1 else (f"{len(names)} files are read as one table, {names[0]} first",)
    if suffix in PARQUET_SUFFIXES:
        return _plan_parquet(archive, names, options, where, notes)
    data = first_bytes(archive, names[0])
    if suffix in JSON_SUFFIXES or (suffix not in TEXT_SUFFIXES and data.lstrip()[:1] == b"{"):
        return _plan_json(archive, names, data, options, where, notes)
    return _plan_text(archive, names, data, options, where, notes)


def _plan_parquet(
    archive: Archive, names: Sequence[str], options: TableOptions, where: str, notes: tuple[str, ...]
) -> ParquetPlan:
    """Plan Parquet files."""
    schemas = []
    for name in names:
        with open_parquet(archive, name) as file:
            schemas.append(file.schema_arrow)
    hive = hive_values(names[0])
    known = [*schemas[0].names, *(column for column in hive if column not in schemas[0].names)]
    roles = choose_columns(known, options.columns, where, options.about_events)
    here, parts = role_columns(roles, set(schemas[0].names), names)
    notes = (*notes, *twice_named(roles, schemas[0].names, names))
    for name, schema in zip(names, schemas, strict=True):
        told = archive.where(name)
        doubled = next((c for c in here.values() if schema.names.count(c) > 1), None)
        if doubled:
            raise DataError(f"{told} has the column {doubled!r} twice; rename one")
        missing = next((c for c in here.values() if c not in schema.names), None)
        if missing:
            raise DataError(f"{told} has no column {missing!r}, which other files of this table have")
        check_types(schema, here, told)
    kinds = {role: {schema.field(here[role]).type for schema in schemas} for role in here}
    as_text = frozenset(
        role
        for role in ("user", "item")
        if role in here and (len(kinds[role]) > 1 or kinds[role] & {pa.uint64(), pa.string()})
    )
    plan = ParquetPlan(layout="parquet", parts=parts, where=where, roles=here, as_text=as_text, notes=notes)
    times, said = _time_rule(_parquet_times(archive, plan), options, where)
    return replace(plan, times=times, notes=(*notes, *said))


def _parquet_times(archive: Archive, plan: ParquetPlan) -> pa.Array:
    """Return some times of a table."""
    if "time" not in plan.roles:
        return _part_times(plan.parts)
    for part in plan.parts:
        with open_parquet(archive, part.file) as file:
            for batch in file.iter_batches(1000, columns=[plan.roles["time"]]):
                if batch.num_rows:
                    return batch.column(0)
            empty = file.schema_arrow.field(plan.roles["time"]).type
    return pa.nulls(0, empty)


def _plan_json(
    archive: Archive,
    names: Sequence[str],
    data: bytes,
    options: TableOptions,
    where: str,
    notes: tuple[str, ...],
) -> JsonPlan:
    """Plan JSON lines."""
    objects = sample_objects(data, where)
    keys = list(dict.fromkeys(key for found in objects for key in found))
    hive = hive_values(names[0])
    known = [*keys, *(column for column in hive if column not in keys)]
    roles = choose_columns(known, options.columns, where, options.about_events)
    here, parts = role_columns(roles, set(keys), names)
    notes = (*notes, *twice_named(roles, keys, names))
    values = {role: [found.get(key) for found in objects] for role, key in here.items()}
    types = {role: type_of(found, role) for role, found in values.items()}
    if "rating" in types:
        types["rating"] = pa.float64()
    if "time" in here:
        if options.time_format:
            types["time"] = pa.string()
        sample = time_array(values["time"], types["time"])
    else:
        sample = _part_times(parts)
    times, said = _time_rule(sample, options, where)
    if times.format and "time" in here and not any(isinstance(v, str) for v in values["time"]):
        types["time"] = pa.int64()
    return JsonPlan(
        layout="jsonl",
        parts=parts,
        where=where,
        roles=here,
        types=types,
        times=times,
        notes=(*notes, *said),
    )


def _plan_text(
    archive: Archive,
    names: Sequence[str],
    data: bytes,
    options: TableOptions,
    where: str,
    notes: tuple[str, ...],
) -> TextPlan:
    """Plan delimited text."""
    asked, hive = options.columns, hive_values(names[0])
    first = TEXT_SUFFIXES.get(PurePosixPath(bare_name(names[0])).suffix, ",")
    if options.delimiter:
        head = look(data, delimiter_of(options.delimiter))
    else:
        numbers = [int(column) for column in asked.values() if column.isascii() and column.isdigit()]
        head = find_head(
            data,
            first,
            lambda found: is_known(found, [*hive], asked),
            max([3 - len(hive), 2, *numbers]),
            where,
        )
    labels, has_header = _labels(head, asked, where)
    start = _row_start(head, int(has_header), data)
    if head.quotes:
        refuse_quotes_of_file(data[:start], head.delimiter.encode(), where)
    if has_header and by_number(asked, head.rows[0]):
        notes = (*notes, f"the first row is read as a header: {', '.join(head.rows[0])[:80]}")
    known = [*labels, *(column for column in hive if column not in labels)]
    roles = choose_columns(known, asked, where, options.about_events)
    here, parts = role_columns(roles, set(labels), names)
    notes = (*notes, *twice_named(roles, labels, names))
    rows = head.rows[1:] if has_header else head.rows
    parts = (
        replace(parts[0], start=start),
        *(_checked(archive, part, head, has_header) for part in parts[1:]),
    )
    samples = {
        role: [row[place] for row in rows if len(row) > place]
        for role, place in ((role, labels.index(column)) for role, column in here.items())
    }
    refuse_few_digits(samples.get("time", ()), where)
    types = _text_types(samples, options, where)
    sample = _part_times(parts) if "time" not in here else _as_type(samples["time"], types["time"])
    times, said = _time_rule(sample, options, where)
    return TextPlan(
        layout="csv",
        parts=parts,
        where=where,
        delimiter=head.delimiter,
        quotes=head.quotes,
        names=labels,
        roles=here,
        types=types,
        first_row=2 if has_header and len(parts) == 1 else 1,
        times=times,
        newline=head.newline,
        quoted=head.quoted or head.newline != b"\n",
        strip=has_header and len(labels) > 1 and all(name.startswith(" ") for name in head.rows[0][1:]),
        notes=(*notes, *said),
    )


def _labels(head: Head, asked: Mapping[str, str], where: str) -> tuple[tuple[str, ...], bool]:
    """Return a name for each column, and whether the first row holds the names."""
    first = head.rows[0]
    if not by_number(asked, first):
        return unique_names(first, where), True
    labels = tuple(str(number) for number in range(1, len(first) + 1))
    places = [int(asked[role]) - 1 for role in ("time", "rating") if role in asked]

    # A header is the one row in which the columns of times and ratings hold names, and not values as those below.
    named = [is_name(first[place]) for place in places if place < len(first)]
    below = [is_name(row[place]) for row in head.rows[1:20] for place in places if place < len(row)]
    return labels, bool(named) and all(named) and sum(below) * 2 < len(below)


def _row_start(head: Head, row: int, data: bytes) -> int:
    """Return the byte at which a row begins, or the end of the header where it is all there is."""
    if row < len(head.starts):
        return head.starts[row]
    return len(data)


def _checked(archive: Archive, part: Part, first: Head, has_header: bool) -> Part:
    """Return another file of a table with the place of its first row, if it has the columns of the first file."""
    head = look(first_bytes(archive, part.file), first.delimiter)
    names, other = ([name.strip() for name in rows[0]] for rows in (first.rows, head.rows))
    if has_header and names != other:
        raise DataError(
            f"{archive.where(part.file)} begins with {', '.join(other)[:80]!r}, but the first file of this table has "
            f"the header {', '.join(names)[:80]!r}; give files with the same columns"
        )
    if not has_header and len(names) != len(other):
        raise DataError(f"{archive.where(part.file)} has {len(other)} columns, the first file {len(names)}")
    data = b"" if len(head.starts) > 1 else first_bytes(archive, part.file)
    return replace(part, start=_row_start(head, int(has_header), data))


def _text_types(
    samples: Mapping[str, Sequence[str]], options: TableOptions, where: str
) -> dict[str, pa.DataType]:
    """Return as what each role is read."""
    types: dict[str, pa.DataType] = {role: ID for role in samples if is_category(role)}
    if "time" in samples:
        if options.time_format:
            types["time"] = pa.string()
        else:
            types["time"] = _kind(samples["time"], "time", TIME_TYPES, where)
    if "rating" in samples:
        types["rating"] = _kind(samples["rating"], "rating", (pa.float64(),), where)
    return types


def _kind(texts: Sequence[str], role: str, kinds: Sequence[pa.DataType], where: str) -> pa.DataType:
    """Return the type of a column of texts."""
    kind = infer_type(texts, kinds) if any(texts) else kinds[0]
    if kind is None:
        example = next(text for text in texts if text)
        wanted = "ratings must be numbers"
        if role == "time":
            wanted = "give unix seconds or ISO 8601 dates, or name the format with --time-format"
        raise DataError(f"{where}: {role} has type string (first value {example[:80]!r}); {wanted}")
    return kind


def _as_type(texts: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Return those texts that are values of a type."""
    return parsed_or_null(pa.array([text.strip() for text in texts], pa.string()), kind).drop_null()


def _part_times(parts: Sequence[Part]) -> pa.Array:
    """Return the times that stand in the names of folders."""
    return pa.array([dict(part.values).get("time") for part in parts], pa.string())


def _time_rule(sample: pa.Array, options: TableOptions, where: str) -> tuple[TimeRule, list[str]]:
    return choose_rule(sample, options.time_unit, options.time_format, where)
