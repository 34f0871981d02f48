"""`prepare`: from a source of ratings to a prepared folder, in tasks that any mapper runs, here or on a cluster.

The caller's process holds the ids and counts of users and items, never rows. Memory of a task is bounded by the size
of a chunk of the source, of a partition, or of a shard. A small source is one task from rows to block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare import partition
from ss4rec.data.prepare.assemble import Assembly, number_users, plan_shards, write_shard
from ss4rec.data.prepare.block import (
    BLOCK_FORMAT,
    BlockFile,
    ScatteredUsersError,
    as_strings,
    ids_of_one_type,
    is_done,
    make_block,
    save_block,
)
from ss4rec.data.prepare.chunks import Chunk, looks_sorted, parse_chunk, source_chunks
from ss4rec.data.prepare.context import describe_context, known_targets
from ss4rec.data.prepare.k_core import Core, core_and_dropped, vocabulary
from ss4rec.data.prepare.work_folder import WorkFolder
from ss4rec.data.prepared.build import MIN_EVENTS, Mapper, describe_items, finish_folder
from ss4rec.data.prepared.features import check_kinds, encode_features
from ss4rec.data.prepared.manifest import EventTargets, Feature, Filters, Manifest, SourceRecord
from ss4rec.data.sources import Rules, Source, TableOptions
from ss4rec.data.sources.checks import enforce_limit, shift_rows
from ss4rec.data.sources.features import FeatureTable, as_profiles, join_profiles, read_brought
from ss4rec.data.sources.rows import Catalogue, UserProfiles
from ss4rec.data.sources.tables_in_memory import WHERE, table_file
from ss4rec.data.sources.text import BLOCK_BYTES, QuotesFoundError
from ss4rec.data.ties import Ties
from ss4rec.errors import DataError
from ss4rec.io.atomic import write_whole
from ss4rec.io.beside import begin
from ss4rec.io.paths import AnyPath, RemotePath

WHOLE_BYTES = 64 << 20
"""A source of at most this size becomes one block in one task."""
PARTITION_BYTES = 16 << 20
"""Source bytes of a partition; a task holds about five times that."""


@dataclass(frozen=True)
class Job:
    """What is asked for, as tasks need it."""

    source: Source
    rules: Rules
    blocks: AnyPath
    """Folder of the blocks."""
    scattered: AnyPath
    """Folder of the chunks whose rows were scattered to partitions."""
    partitions: int
    block_bytes: int

    def with_quotes(self) -> Job:
        """Return the job for a source whose rows end elsewhere than its lines; nothing of the former is used."""
        return replace(
            self,
            source=self.source.with_quotes(),
            blocks=self.blocks.parent / "blocks-quoted",
            scattered=self.scattered.parent / "scattered-quoted",
        )

    def block_folder(self, name: str, number: int) -> AnyPath:
        """Return where a block lies."""
        return self.blocks / f"{name}-{number:05d}"

    def scattered_path(self, number: int) -> AnyPath:
        """Return where the scattered rows of a chunk lie."""
        return self.scattered / f"{number:05d}.arrow"


@dataclass(frozen=True)
class Options:
    """What `prepare` was asked for beside source and result; see there."""

    k_core: int
    name: str | None
    rows_per_shard: int
    overwrite: bool
    rules: Rules
    ties: Ties
    item_features: FeatureTable | None
    user_features: UserProfiles | None
    feature_kinds: Mapping[str, str]
    context_kinds: Mapping[str, str]
    """Those of `feature_kinds` that are about columns of events."""
    targets: EventTargets | None
    mapper: Mapper
    block_bytes: int
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Blocks:
    """All blocks, and the rows in quarantine on the way."""

    blocks: list[BlockFile]
    rows: int
    quarantine: pa.Table


def prepare(
    source: AnyPath | Source | Any,
    out: AnyPath,
    *,
    k_core: int = 5,
    name: str | None = None,
    columns: Mapping[str, str] | TableOptions | None = None,
    rows_per_shard: int = 2048,
    overwrite: bool = False,
    rules: Rules | None = None,
    ties: Ties = "file",
    item_features: AnyPath | FeatureTable | None = None,
    user_features: AnyPath | FeatureTable | None = None,
    feature_kinds: Mapping[str, str] | None = None,
    targets: EventTargets | None = None,
    mapper: Mapper = map,
    block_bytes: int = BLOCK_BYTES,
    progress: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Read `source`, keep its k-core, and write a prepared folder, which appears whole or not at all.

    A job that is killed goes on where it stood when it is started again with the same options. Paths may be on remote
    file systems.

    Args:
        source: a zip, a folder or a file in one of the known layouts (`ss4rec.data.sources`), or one opened before; or
            a table: pandas, Polars, Arrow, `ray.data.Dataset`.
        out: folder to write; may not exist, or be empty, unless `overwrite`.
        k_core: minimum interactions of every user and item. Users with fewer than 3 events are dropped in any case.
        name: name of the data set; by default the source's, without its suffix.
        columns: column of `user`, `item`, `time`, `rating` in a table, or more that is known about it; not for a
            source that was opened before.
        rows_per_shard: users per shard.
        overwrite: replace a folder that was prepared before.
        rules: what a row must be; rows that are not are left out and listed in `quarantine.parquet`, up to the
            fraction that the rules set. By default every row must be usable.
        ties: what decides between events of one user and second.
        item_features: a file of columns about items, or one read before; kept as `feature.NAME` in `items.parquet`.
        user_features: the same about users, kept in `profiles.parquet` beside what the source says.
        feature_kinds: kind of a column of `item_features` or about events, where the guess is not what is meant.
        targets: which events are targets, by a column that is read about events; None: all.
        mapper: runs the tasks.
        block_bytes: source bytes of a block.
        progress: is told what is being done.

    Raises:
        DataError: if the source cannot be used, nothing is left, or `out` is taken; then nothing is written.
    """
    asked = Options(
        k_core,
        name,
        rows_per_shard,
        overwrite,
        rules or Rules(),
        ties,
        _features(item_features, "item"),
        as_profiles(_features(user_features, "user")),
        feature_kinds or {},
        {},
        targets,
        mapper,
        block_bytes,
        progress,
    )
    if isinstance(source, Source):
        return _prepare(source, out, asked)
    if isinstance(source, Path | RemotePath):
        return _prepare(_open(source, columns), out, asked)
    # What is in memory becomes a file first, where all tasks see it.
    given = _given(columns)
    with table_file(source, out.parent / f".{out.name}.table", given) as path:
        return _prepare(_open(path, given, WHERE), out, replace(asked, name=name or path.stem))


def _features(given: AnyPath | FeatureTable | None, role: Literal["item", "user"]) -> FeatureTable | None:
    """Return what was brought, and say the notes of a file that is read here."""
    if given is None or isinstance(given, FeatureTable):
        return given
    found = read_brought(given, role)
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    return found


def _given(columns: Mapping[str, str] | TableOptions | None) -> TableOptions:
    return columns if isinstance(columns, TableOptions) else TableOptions(columns=dict(columns or {}))


def _split_kinds(source: Source, asked: Options) -> Options:
    """Return the options with kinds of columns about events apart from those about items.

    Raises:
        DataError: if the column that says which events are targets is not read, or one with a kind.
    """
    context = set(source.context)
    if asked.targets is not None and asked.targets.column not in context:
        raise DataError(
            f"--targets {asked.targets.column}=..: this column is not read; the columns about events are "
            f"{', '.join(sorted(context)) or 'none'}, name more with --context"
        )
    about_events = {name: kind for name, kind in asked.feature_kinds.items() if name in context}
    rest = check_kinds(asked.feature_kinds, asked.item_features or source.item_features(), context)
    return replace(asked, feature_kinds=rest, context_kinds=about_events)


def _open(path: AnyPath, columns: Mapping[str, str] | TableOptions | None, *where: str) -> Source:
    """Open a source and say its notes."""
    opened = Source.open(path, columns, *where)
    for note in opened.notes:
        warnings.warn(note, stacklevel=3)
    return opened


def _prepare(source: Source, out: AnyPath, asked: Options) -> Manifest:
    """Run the job of `prepare`."""
    asked = _split_kinds(source, asked)
    options = {name: getattr(asked, name) for name in ("k_core", "rows_per_shard", "block_bytes")}
    work, again = WorkFolder.enter(
        out, asked.overwrite, _stamp(source, asked.rules, asked.ties, options, asked.context_kinds)
    )
    with work.publishing():
        asked.progress(f"{'going on with' if again else 'reading'} {source.path}")
        job = Job(
            source=source,
            rules=asked.rules,
            blocks=work.root / "blocks",
            scattered=work.root / "scattered",
            partitions=1 if source.bytes <= WHOLE_BYTES else -(-source.bytes // PARTITION_BYTES),
            block_bytes=asked.block_bytes,
        )
        try:
            found = _blocks(job, asked.mapper, asked.progress)
        except QuotesFoundError:
            asked.progress("fields are quoted: reading anew from the beginning")
            found = _blocks(job.with_quotes(), asked.mapper, asked.progress)
        if not found.rows:
            raise DataError(f"{source.plan.where} has no rows; give a file with ratings")
        enforce_limit(found.quarantine, found.rows, asked.rules, source.plan.where)
        asked.progress(f"{asked.k_core}-core of {found.rows:,} rows")
        # Neither needs the rows, and the cores are not busy while the k-core is counted.
        record, known = begin(partial(_source_record, source, found.rows)), begin(source.catalogue)
        item_ids, codes = vocabulary(found.blocks)
        core, dropped = core_and_dropped(found.blocks, codes, asked.k_core, asked.mapper)
        if not core.rows:
            raise DataError(
                f"{source.path}: of {found.rows:,} rows none is left with --k-core {asked.k_core} and at least "
                f"{MIN_EVENTS} events a user; ask for a smaller core or give more data"
            )
        asked.progress(f"writing {out}")
        items = describe_items(item_ids.filter(pa.array(core.mask_V)), known.result())
        return _write(work.result, source, found, core, codes, items, dropped, record, asked)


def _write(
    result: AnyPath,
    source: Source,
    found: Blocks,
    core: Core,
    codes: tuple[npt.NDArray[Any], ...],
    items: Catalogue,
    dropped: Mapping[str, int],
    record: Future[SourceRecord],
    asked: Options,
) -> Manifest:
    """Write shards, tables and manifest into `result`; `record` will say where the rows came from."""
    features: dict[Literal["items", "users"], tuple[Feature, ...]] = {}
    known = asked.item_features or source.item_features()
    if known is not None:
        encoded, features["items"] = encode_features(items.source_id, known, asked.feature_kinds)
        items = replace(items, features=encoded)
    said = source.profiles()
    brought = asked.user_features or (said if source.layout.name == "recbole" else None)
    if brought is not None:
        names = brought.values.column_names
        features["users"] = tuple(Feature(name=name, kind="categorical") for name in names)
    user_ids, lengths_U, index = number_users(found.blocks, core)
    context = describe_context(
        found.blocks, asked.context_kinds, [asked.targets.column] if asked.targets else ()
    )
    targets = None if asked.targets is None else known_targets(asked.targets, context)
    assembly = Assembly.of(result, found.blocks, core, codes, asked.ties, context)
    shards = plan_shards(index, found.blocks, len(user_ids), asked.rows_per_shard)
    written = asked.mapper(partial(write_shard, assembly), shards)
    return finish_folder(
        result,
        written,
        items=items,
        item_counts_V=core.counts_V[core.mask_V],
        user_ids=user_ids,
        lengths_U=lengths_U,
        profiles=join_profiles(said, asked.user_features),
        quarantine=found.quarantine,
        rows_per_shard=asked.rows_per_shard,
        mapper=asked.mapper,
        name=asked.name or source.path.resolve().stem,
        rows_dropped=dropped,
        source=record,
        filters=Filters(k_core=asked.k_core, ties="hash" if asked.ties == "hash" else None),
        features=features or None,
        context=tuple(column.feature for column in context) or None,
        targets=targets,
    )


def _stamp(
    source: Source, rules: Rules, ties: Ties, options: Mapping[str, int], context: Mapping[str, str]
) -> dict[str, Any]:
    """Return what must be the same for a job to go on where another one stood."""
    # The usual limit of time is the day of the call; what counts for going on is everything else.
    fixed = {key: value for key, value in asdict(rules).items() if key != "latest_s"}
    stamp = {
        "format": BLOCK_FORMAT,
        "source": source.archive.stamp(source.files),
        "plan": str(source.plan),
    }
    return {**stamp, **options, "rules": fixed, "ties": ties, **({"context": context} if context else {})}


def _source_record(source: Source, rows: int) -> SourceRecord:
    """Say where the rows came from, with a checksum, for which the source is read once more."""
    size, sha256 = source.archive.identity(source.files)
    name = source.path.resolve().name
    return SourceRecord(name=name, layout=source.plan.layout, rows=rows, bytes=size, sha256=sha256)


def _blocks(job: Job, mapper: Mapper, progress: Callable[[str], None]) -> Blocks:
    """Turn the source into blocks; rows move between tasks only where it is large and not in the order of users."""
    if job.partitions == 1:
        return _whole(job, mapper)
    found = None
    if not (job.scattered / "chosen").is_file() and looks_sorted(job.source):
        found = _direct(job, mapper)
    if found is None:
        progress("rows of a user do not lie together: partitioning by user")
        write_whole(job.scattered / "chosen", b"")
        found = _partitioned(job, mapper)
    if {block.users["user"].type for block in found.blocks} == {pa.int64(), pa.string()}:
        # Only now it is known that ids are no whole numbers: blocks that have only such are ordered as numbers.
        whole = [block.folder for block in found.blocks if block.users["user"].type == pa.int64()]
        renewed = dict(zip(whole, mapper(as_strings, whole), strict=True))
        found = replace(found, blocks=[renewed.get(block.folder, block) for block in found.blocks])
    return found


def _whole(job: Job, mapper: Mapper) -> Blocks:
    """Make one block of all rows, in one task."""
    folder = job.block_folder("whole", 0)
    for _ in mapper(partial(_make_whole, job), [] if is_done(folder) else [folder]):
        pass
    block = BlockFile.load(folder)
    return Blocks([block], block.read, block.quarantine)


def _make_whole(job: Job, folder: AnyPath) -> None:
    save_block(folder, make_block(job.source.read(job.rules), repeats=job.rules.repeats, together=False))


def _over_chunks(
    job: Job, mapper: Mapper, task: Callable[[Job, Chunk], bool], is_finished: Callable[[int], bool]
) -> int | None:
    """Run a task on every chunk that is not finished; returns the number of chunks, or None if a task gave up."""
    chunks, known = source_chunks(job.source, job.block_bytes)
    seen = 0

    def waiting() -> Iterator[Chunk]:
        nonlocal seen
        for chunk in chunks:
            seen += 1
            if not is_finished(chunk.number):
                yield chunk

    return (known or seen) if all(mapper(partial(task, job), waiting())) else None


def _direct(job: Job, mapper: Mapper) -> Blocks | None:
    """Sort each chunk by itself; None if a user turns out to be in two places."""
    count = _over_chunks(job, mapper, _make_direct, lambda number: is_done(job.block_folder("chunk", number)))
    if count is None:
        return None
    blocks = [BlockFile.load(job.block_folder("chunk", number)) for number in range(count)]
    users = ids_of_one_type([block.users["user"] for block in blocks])
    if pc.count_distinct(users).as_py() < len(users):
        return None
    firsts = np.cumsum([job.source.plan.first_row, *(block.read for block in blocks)]).tolist()
    quarantine = [
        shift_rows(block.quarantine, first) for block, first in zip(blocks, firsts[:-1], strict=True)
    ]
    return Blocks(blocks, firsts[-1] - firsts[0], pa.concat_tables(quarantine))


def _make_direct(job: Job, chunk: Chunk) -> bool:
    parsed = parse_chunk(job.source, job.rules, chunk)
    try:
        block = make_block(parsed, repeats=job.rules.repeats, together=True)
    except ScatteredUsersError:
        return False
    save_block(job.block_folder("chunk", chunk.number), block)
    return True


def _partitioned(job: Job, mapper: Mapper) -> Blocks:
    """Scatter the rows of the chunks by user and gather each partition as a block."""
    count = _over_chunks(job, mapper, _scatter, lambda number: job.scattered_path(number).is_file())
    paths = [job.scattered_path(number) for number in range(count or 0)]
    heads = [partition.read_head(path) for path in paths]
    firsts = np.cumsum([job.source.plan.first_row, *(rows for rows, _ in heads)]).tolist()
    folders = [job.block_folder("by-user", number) for number in range(job.partitions)]
    todo = [number for number, folder in enumerate(folders) if not is_done(folder)]
    for _ in mapper(partial(_gather, job, paths, firsts[:-1]), todo):
        pass
    blocks = [BlockFile.load(folder) for folder in folders]
    shifted = [
        shift_rows(quarantine, first) for (_, quarantine), first in zip(heads, firsts[:-1], strict=True)
    ]
    quarantine = pa.concat_tables([*shifted, *(block.quarantine for block in blocks)]).sort_by("row")
    return Blocks(blocks, firsts[-1] - firsts[0], quarantine)


def _scatter(job: Job, chunk: Chunk) -> bool:
    parsed = parse_chunk(job.source, job.rules, chunk)
    partition.save_scattered(job.scattered_path(chunk.number), parsed, job.partitions)
    return True


def _gather(job: Job, paths: Sequence[AnyPath], firsts: Sequence[int], number: int) -> None:
    block = partition.gather(paths, firsts, number, repeats=job.rules.repeats)
    save_block(job.block_folder("by-user", number), block)
