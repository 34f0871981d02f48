"""`prepare` in tasks: the same folder, byte for byte, as `ss4rec.data.prepare.memory.prepare` makes in memory.

The caller's process holds the ids and counts of users and items, never rows. Memory of a task is bounded by the size
of a piece of the source, or of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare import partition
from ss4rec.data.prepare.assemble import (
    Gathering,
    ShardResult,
    gaps_within,
    plan_shards,
    record_of,
    write_shard,
)
from ss4rec.data.prepare.block import (
    BLOCK_FORMAT,
    BlockFile,
    ScatteredUsersError,
    as_strings,
    is_done,
    make_block,
    save_block,
)
from ss4rec.data.prepare.chunks import Piece, looks_sorted, parse_piece, source_pieces
from ss4rec.data.prepare.gap_median import GapCounts
from ss4rec.data.prepare.k_core import Core, Mapper, core_of_blocks, vocabulary
from ss4rec.data.prepare.memory import MIN_EVENTS, none_left
from ss4rec.data.prepare.work_folder import WorkFolder
from ss4rec.data.prepared.build import describe_items, folder_tables, items_table, make_manifest, users_table
from ss4rec.data.prepared.manifest import MANIFEST_NAME, Filters, Manifest, SourceRecord
from ss4rec.data.prepared.tables import write_table
from ss4rec.data.prepared.user_profiles import profiles_table
from ss4rec.data.sources import Archive, Rules, plan_source
from ss4rec.data.sources.checks import BAD_SCHEMA, enforce_limit
from ss4rec.data.sources.rows import shift_rows
from ss4rec.data.sources.table import ParquetPlan
from ss4rec.data.sources.text import BLOCK_BYTES, TextPlan
from ss4rec.data.sources.ties import Ties
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, remove_tree, write_whole

PARTITION_BYTES = 16 << 20
"""Source bytes of a partition; a task holds about five times that."""


@dataclass(frozen=True)
class Job:
    """What is asked for, as tasks need it."""

    source: AnyPath
    plan: TextPlan | ParquetPlan
    rules: Rules
    blocks: AnyPath
    """Folder of the blocks."""
    pieces: AnyPath
    """Folder of the scattered pieces."""
    partitions: int


@dataclass(frozen=True)
class Gathered:
    """All blocks, and what was put aside on the way."""

    blocks: list[BlockFile]
    rows: int
    bad: pa.Table


def prepare_in_tasks(
    source: AnyPath,
    out: AnyPath,
    *,
    k_core: int = 5,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    rows_per_shard: int = 2048,
    overwrite: bool = False,
    rules: Rules | None = None,
    ties: Ties = "file",
    mapper: Mapper = map,
    block_bytes: int = BLOCK_BYTES,
    progress: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Read `source`, keep its k-core, and write a prepared folder.

    A job that is killed goes on where it stood when it is started again with the same options. All options but these
    are those of `prepare`; paths may be on remote file systems.

    Args:
        source: as in `prepare`.
        out: folder to write.
        mapper: runs the tasks.
        block_bytes: source bytes of a block.

    Raises:
        DataError: if the source cannot be used, nothing is left, or `out` is taken.
    """
    archive, rules = Archive(source), rules or Rules()
    plan, layout = plan_source(archive, columns)
    options = {"k_core": k_core, "rows_per_shard": rows_per_shard, "block_bytes": block_bytes}
    stamp = _stamp(archive, plan, rules, ties, options)
    work, again = WorkFolder.enter(out, overwrite, stamp)
    progress(f"{'going on with' if again else 'reading'} {source}")
    partitions = max(1, -(-archive.size(plan.file) // PARTITION_BYTES))
    job = Job(source, plan, rules, work.root / "blocks", work.root / "pieces", partitions)
    try:
        gathered = _blocks(job, archive, block_bytes, mapper, progress)
        if not gathered.rows:
            raise DataError(f"{plan.where} has no rows; give a file with ratings")
        enforce_limit(gathered.bad, gathered.rows, rules, plan.where)
        progress(f"{k_core}-core of {gathered.rows:,} rows")
        item_ids, codes = vocabulary(gathered.blocks)
        core, dropped = _core(gathered.blocks, codes, k_core, mapper)
        if not core.rows:
            raise none_left(source, gathered.rows, k_core)
    except DataError:
        remove_tree(work.root)
        raise
    progress(f"writing {out}")
    kept_ids = item_ids.filter(pa.array(core.mask_V))
    known = describe_items(kept_ids, layout.catalogue(archive, plan.file))
    user_ids, lengths_U, index = _number_users(gathered.blocks, core)
    profiles, profile_values = profiles_table(user_ids, layout.profiles(archive, plan.file))
    tables = folder_tables(
        items_table(kept_ids, *known, core.counts_V[core.mask_V]),
        users_table(user_ids, lengths_U, rows_per_shard),
        gathered.bad,
        profiles,
    )
    (size, sha256), results = _write_shards(
        job, work, gathered, core, codes, index, rows_per_shard, mapper, ties
    )
    manifest = _finish(
        work,
        tables,
        results,
        name=name or source.resolve().stem,
        rows_dropped=dropped,
        source=SourceRecord(
            name=source.resolve().name, layout=plan.layout, rows=gathered.rows, bytes=size, sha256=sha256
        ),
        filters=Filters(k_core=k_core, ties="hash" if ties == "hash" else None),
        mapper=mapper,
        profile_values=profile_values,
    )
    work.publish()
    return manifest


def _stamp(
    archive: Archive, plan: TextPlan | ParquetPlan, rules: Rules, ties: Ties, options: Mapping[str, int]
) -> dict[str, Any]:
    """Return what must be the same for a job to go on where another one stood."""
    # The usual limit of time is the day of the call; what counts for going on is everything else.
    fixed = {key: value for key, value in asdict(rules).items() if key != "latest_s"}
    stamp = {"format": BLOCK_FORMAT, "source": archive.stamp(plan.file), "plan": str(plan), **options}
    return stamp | {"rules": fixed} | ({"ties": ties} if ties != "file" else {})


def _write_shards(
    job: Job,
    work: WorkFolder,
    gathered: Gathered,
    core: Core,
    codes: tuple[np.ndarray, ...],
    index: list[np.ndarray],
    rows_per_shard: int,
    mapper: Mapper,
    ties: Ties,
) -> tuple[tuple[int, str], list[ShardResult]]:
    """Write all shards, and return bytes and checksum of the source too: that is one more task, the longest."""
    final_V = np.where(core.mask_V, np.cumsum(core.mask_V), 0).astype(np.int32)
    gathering = Gathering(
        work.result,
        tuple(block.rows for block in gathered.blocks),
        tuple(final_V[codes_of] for codes_of in codes),
        ties,
    )
    counts = [block.users["count"].to_numpy() for block in gathered.blocks]
    users = sum(int((places >= 0).sum()) for places in index)
    shards = plan_shards(index, counts, users, rows_per_shard)
    task = partial(_either, partial(_identity, job.source), partial(write_shard, gathering))
    identity, *results = mapper(task, [job.plan.file, *shards])
    return identity, results


def _blocks(
    job: Job, archive: Archive, block_bytes: int, mapper: Mapper, progress: Callable[[str], None]
) -> Gathered:
    """Turn the source into blocks, without moving rows between tasks if it is in the order of users."""
    found = None
    if not (job.pieces / "chosen").is_file() and looks_sorted(archive, job.plan):
        found = _direct(job, archive, block_bytes, mapper)
    if found is None:
        progress("rows of a user do not lie together: partitioning by user")
        write_whole(job.pieces / "chosen", b"")
        found = _partitioned(job, archive, block_bytes, mapper)
    if {block.users["user"].type for block in found.blocks} == {pa.int64(), pa.string()}:
        # Only now it is known that ids are no whole numbers: blocks that have only such are ordered as numbers.
        whole = [block.folder for block in found.blocks if block.users["user"].type == pa.int64()]
        renewed = dict(zip(whole, mapper(as_strings, whole), strict=True))
        blocks = [renewed.get(block.folder, block) for block in found.blocks]
        found = Gathered(blocks, found.rows, found.bad)
    return found


def _direct(job: Job, archive: Archive, block_bytes: int, mapper: Mapper) -> Gathered | None:
    """Sort each piece by itself; None if a user turns out to be in two places."""
    pieces, known = source_pieces(archive, job.plan, block_bytes)
    seen: list[int] = []

    def waiting() -> Iterator[Piece]:
        for piece in pieces:
            seen.append(piece.number)
            if not is_done(_block_folder(job, piece.number)):
                yield piece

    for together in mapper(partial(_make_direct, job), waiting()):
        if not together:
            return None
    blocks = [BlockFile.load(_block_folder(job, number)) for number in range(known or len(seen))]
    users = pa.chunked_array([block.users["user"].cast(pa.string()).combine_chunks() for block in blocks])
    if pc.count_distinct(users).as_py() < len(users):
        return None
    return _with_numbers(job, blocks)


def _make_direct(job: Job, piece: Piece) -> bool:
    parsed = parse_piece(job.source, job.plan, job.rules, piece)
    try:
        block = make_block(parsed, repeats=job.rules.repeats, together=True)
    except ScatteredUsersError:
        return False
    save_block(_block_folder(job, piece.number), block)
    return True


def _with_numbers(job: Job, blocks: list[BlockFile]) -> Gathered:
    """Number the rows that were put aside as in the whole source."""
    firsts = np.cumsum([job.plan.first_row, *(block.read for block in blocks)])
    bad = [shift_rows(block.bad, int(first)) for block, first in zip(blocks, firsts, strict=False)]
    table = pa.concat_tables(bad) if bad else BAD_SCHEMA.empty_table()
    return Gathered(blocks, int(firsts[-1]) - job.plan.first_row, table)


def _partitioned(job: Job, archive: Archive, block_bytes: int, mapper: Mapper) -> Gathered:
    """Scatter the pieces by user and gather each partition as a block."""
    pieces, known = source_pieces(archive, job.plan, block_bytes)
    seen: list[int] = []

    def waiting() -> Iterator[Piece]:
        for piece in pieces:
            seen.append(piece.number)
            if not _piece_path(job, piece.number).is_file():
                yield piece

    for _ in mapper(partial(_scatter, job), waiting()):
        pass
    paths = [_piece_path(job, number) for number in range(known or len(seen))]
    aside = [partition.read_aside(path) for path in paths]
    firsts = np.cumsum([job.plan.first_row, *(rows for rows, _ in aside)])
    folders = [job.blocks / f"by-user-{number:05d}" for number in range(job.partitions)]
    todo = [number for number, folder in enumerate(folders) if not is_done(folder)]
    for _ in mapper(partial(_gather, job, paths, firsts[:-1].tolist()), todo):
        pass
    blocks = [BlockFile.load(folder) for folder in folders]
    shifted = [shift_rows(bad, int(first)) for (_, bad), first in zip(aside, firsts, strict=False)]
    bad = pa.concat_tables([*shifted, *(block.bad for block in blocks)]).sort_by("row")
    return Gathered(blocks, int(firsts[-1]) - job.plan.first_row, bad)


def _scatter(job: Job, piece: Piece) -> None:
    parsed = parse_piece(job.source, job.plan, job.rules, piece)
    partition.save_scattered(_piece_path(job, piece.number), parsed, job.partitions)


def _gather(job: Job, paths: Sequence[AnyPath], firsts: Sequence[int], number: int) -> None:
    block = partition.gather(paths, firsts, number, repeats=job.rules.repeats)
    save_block(job.blocks / f"by-user-{number:05d}", block)


def _core(
    blocks: list[BlockFile], codes: tuple[np.ndarray, ...], least: int, mapper: Mapper
) -> tuple[Core, dict[str, int]]:
    """Return what stays, and how many rows were dropped for which reason (as `prepare` counts them)."""
    total = sum(int(block.offsets_U1[-1]) for block in blocks)
    mask_V = np.zeros(max((int(code.max(initial=-1)) for code in codes), default=-1) + 1, np.int64)
    for block, code in zip(blocks, codes, strict=True):
        mask_V[code] += block.items["count"].to_numpy()
    first = core_of_blocks(blocks, codes, mask_V >= max(least, 1), max(least, 1), least, mapper)
    last = first
    if least < MIN_EVENTS:
        last = core_of_blocks(blocks, codes, first.mask_V, MIN_EVENTS, least, mapper)
    return last, {"k_core": total - first.rows, "short_users": first.rows - last.rows}


def _number_users(blocks: list[BlockFile], core: Core) -> tuple[pa.Array, np.ndarray, list[np.ndarray]]:
    """Return ids and lengths of the users that stay, ascending by id, and each block's users' places (-1: dropped)."""
    ids = pa.chunked_array([block.users["user"].combine_chunks() for block in blocks]).combine_chunks()
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    kept = np.concatenate(core.kept)
    staying = np.flatnonzero(kept)
    user_ids = ids.take(pa.array(staying))
    ascending = pc.sort_indices(user_ids).to_numpy()
    index = np.full(len(kept), -1, np.int64)
    index[staying[ascending]] = np.arange(len(staying))
    cuts = np.cumsum([len(part) for part in core.kept])[:-1]
    return user_ids.take(pa.array(ascending)), kept[staying[ascending]], np.split(index, cuts)


def _finish(
    work: WorkFolder,
    tables: Mapping[str, pa.Table],
    results: Sequence[ShardResult],
    *,
    name: str,
    rows_dropped: Mapping[str, int],
    source: SourceRecord,
    filters: Filters,
    mapper: Mapper,
    profile_values: tuple[str, ...] | None,
) -> Manifest:
    """Write the tables and the manifest."""
    for file_name, table in tables.items():
        write_table(table, work.result / file_name)
    gaps = GapCounts()
    for result in results:
        gaps.add(result.gaps)
    names = [result.record.name for result in results]
    median = gaps.median(lambda bucket: mapper(partial(gaps_within, work.result, bucket), names))
    manifest = make_manifest(
        tables,
        name=name,
        rows_dropped=rows_dropped,
        times_s=(min(result.first_s for result in results), max(result.last_s for result in results)),
        gaps=(gaps.total, gaps.zero, median),
        source=source,
        filters=filters,
        shards=tuple(result.record for result in results),
        files={file_name: record_of(work.result / file_name) for file_name in tables},
        profile_values=profile_values,
    )
    write_whole(work.result / MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _either(first: Callable, other: Callable, item: object) -> object:
    """Run one kind of task on strings and the other on the rest, so that both are in one queue."""
    return first(item) if isinstance(item, str) else other(item)


def _identity(source: AnyPath, file: str) -> tuple[int, str]:
    return Archive(source).identity(file)


def _block_folder(job: Job, number: int) -> AnyPath:
    return job.blocks / f"piece-{number:05d}"


def _piece_path(job: Job, number: int) -> AnyPath:
    return job.pieces / f"{number:05d}.arrow"
