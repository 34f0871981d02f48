"""Data: from a file or a table to a prepared folder, and a cut in time."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from ss4rec.api.tables import as_arrow
from ss4rec.data import audit as audits
from ss4rec.data import split as cuts
from ss4rec.data.moments import Moment, unix_seconds
from ss4rec.data.prepare.engine import prepare as prepare_source
from ss4rec.data.prepared.event_columns import parse_targets
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources import Rules, Source, TableOptions, resolve_source
from ss4rec.data.sources.checks import rules_for
from ss4rec.data.sources.tables_in_memory import WHERE, is_table, table_file
from ss4rec.data.sources.times import Unit
from ss4rec.data.ties import Ties
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, to_path
from ss4rec.protocol.named import protocol_or_cut
from ss4rec.protocol.settings import Protocol

AnyFolder = str | os.PathLike[str] | PreparedFolder
"""A prepared folder, or where it lies."""
END_OF_DAY_S = 86_400 - 1


@dataclass(frozen=True)
class TimeSplit:
    """A folder that `split` wrote."""

    path: Path
    """Where it lies; `drift` takes it."""
    past: PreparedFolder
    """Events at or before the cut: train on these."""
    timeline: PreparedFolder
    """All events."""
    record: cuts.SplitRecord
    """The cut and its counts."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TimeSplit:
        """Open a folder that was cut before.

        Raises:
            DataError: if it is none.
        """
        folder = Path(path).resolve()
        record = cuts.SplitRecord.load(folder)
        past, timeline = (PreparedFolder.open(folder / name) for name in (cuts.PAST, cuts.TIMELINE))
        return cls(folder, past, timeline, record)


def prepare(
    source: Any,
    out: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    k_core: int = 5,
    name: str | None = None,
    delimiter: str | None = None,
    time_unit: Unit | None = None,
    time_format: str | None = None,
    max_bad_share: float = 0.01,
    rules: Rules | None = None,
    ties: Ties = "file",
    item_features: Any = None,
    user_features: Any = None,
    feature_kinds: Mapping[str, str] | None = None,
    context: Sequence[str] = (),
    targets: str | None = None,
    rows_per_shard: int = 2048,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> PreparedFolder:
    """Turn ratings, purchases or clicks into a prepared folder, in this process; `ss4rec data prepare`.

    Args:
        source: a table (pandas or Polars DataFrame, Arrow table or dataset, `ray.data.Dataset`), or the path of a file,
            folder or archive: CSV, JSON lines, Parquet, GroupLens, RecBole; `ss4rec data prepare --help` has the list.
        out: folder or URI to write.
        columns: column of `user`, `item`, `time` and `rating`; common names are recognised without it. Ratings may be
            missing.
        k_core: minimum events of every user and item. Give 0 for a folder that `split` shall cut.
        name: name of the data set; by default that of the source, or of `out` for a table.
        delimiter: of a text file; found without it.
        time_unit: unit of times that are numbers; by default their size says it.
        time_format: format of times that are texts, as for `strptime`; by default ISO 8601.
        max_bad_share: a source with a larger fraction of rows that cannot be used is refused; fewer are listed in
            `quarantine.parquet` with a reason each.
        rules: what a row must be; by default the rules of the source's layout.
        ties: what orders events of one user and second: the order of rows, or a hash, which gives nothing away.
        item_features: columns about items, a table or a file, with a column of their ids; see docs/data.md.
        user_features: the same about users.
        feature_kinds: kind of a column that is guessed wrongly.
        context: columns of the source about each event, as device or price.
        targets: which events are targets, as in `event=purchase|gift`; None: all.
        rows_per_shard: users per shard.
        overwrite: replace a folder that was prepared before.
        progress: is told what is being done.

    Raises:
        DataError: if the source cannot be used, nothing is left, or `out` is taken; then nothing is written.
    """
    folder = to_path(os.fspath(out)).absolute()
    wanted = None if targets is None else parse_targets(targets)
    kind_column = wanted.column if wanted else None
    options = TableOptions(
        dict(columns or {}), delimiter, time_unit, time_format, tuple(context), kind_column
    )
    with (
        _opened(source, options) as opened,
        _feature_file(item_features) as about_items,
        _feature_file(user_features) as about_users,
    ):
        for note in opened.notes:
            progress(f"note: {note}")
        manifest = prepare_source(
            opened,
            folder,
            k_core=k_core,
            name=name or (folder.name if is_table(source) else None),
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
            rules=rules or rules_for(opened.plan.layout, int(time.time()), max_bad_share),
            ties=ties,
            item_features=about_items,
            user_features=about_users,
            feature_kinds=feature_kinds,
            targets=wanted,
            progress=progress,
        )
    return PreparedFolder(folder, manifest)


def split(
    data: AnyFolder, out: str | os.PathLike[str], cutoff: Moment | str, *, k_core: int = 0
) -> TimeSplit:
    """Cut a folder that was prepared with `k_core=0` at a moment, for `drift`; `ss4rec data split`.

    Args:
        data: the prepared folder.
        out: new folder; `out/past` is what to train on.
        cutoff: last moment of the past: a datetime, an ISO time, unix seconds, or a date, whose whole day is past.
        k_core: minimum events of every user and item, counted in the past alone.

    Raises:
        DataError: if `data` was filtered with the future in sight, `out` is taken, or either side is empty.
        UsageError: if `cutoff` is no moment.
    """
    folder = Path(out).resolve()
    cuts.split(local_folder(data), folder, _cut_second(cutoff), k_core=k_core)
    return TimeSplit.open(folder)


def audit(
    data: AnyFolder,
    split: Protocol | str | None = None,
    *,
    users: int = audits.USERS,
    progress: Callable[[str], None] = lambda message: None,
) -> audits.Audit:
    """Say what is wrong with a prepared folder, and what follows for protocol and configuration; `ss4rec data audit`.

    Args:
        data: the prepared folder, also on a remote file system.
        split: how it would be divided: a protocol, its name or file, or the last day of training; None: leave-one-out.
        users: users whom simple scorers (popularity, a Markov chain) rank, at most.
        progress: is told what is being done.

    Returns:
        `facts` (numbers), `lights` (each with its rule and what to do), `choices`, `configuration`; `to_html()` is a
        page with pictures, `to_dict()` plain values.

    Raises:
        DataError: if `data` is damaged, or cannot be divided like that.
        ConfigError: if there is no such protocol.
    """
    import torch

    protocol = protocol_or_cut(split) if isinstance(split, str) else split
    folder = PreparedFolder.open(data if isinstance(data, PreparedFolder) else os.fspath(data))
    return audits.audit(folder, protocol, users=users, gpu=torch.cuda.is_available(), progress=progress)


def local_folder(data: AnyFolder) -> Path:
    """Return the absolute path of a prepared folder on a file system.

    Raises:
        DataError: if it lies elsewhere, as on S3.
    """
    path = to_path(data.path if isinstance(data, PreparedFolder) else os.fspath(data)).absolute()
    if not isinstance(path, Path):
        raise DataError(f"{path} is not on a file system; copy the prepared folder to one")
    return path


def _cut_second(cutoff: Moment | str) -> int:
    if isinstance(cutoff, str):
        return cuts.parse_cut(cutoff)
    second = int(unix_seconds([cutoff], "cutoff")[0])
    is_day = isinstance(cutoff, date) and not isinstance(cutoff, datetime)
    return second + END_OF_DAY_S if is_day else second


@contextmanager
def _feature_file(given: Any) -> Iterator[AnyPath | None]:
    """Return the path of a file of features; of a table a temporary file is made."""
    if given is None or isinstance(given, str | os.PathLike):
        yield None if given is None else to_path(os.fspath(given)).absolute()
        return
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="ss4rec-") as scratch:
        path = Path(scratch) / "features.parquet"
        pq.write_table(as_arrow(given), path)
        yield path


@contextmanager
def _opened(source: Any, options: TableOptions) -> Iterator[Source]:
    """Open a path, or a table, of which a temporary file is made."""
    if not is_table(source) and isinstance(source, str | os.PathLike):
        yield Source.open(resolve_source(os.fspath(source)), options)
        return
    with (
        tempfile.TemporaryDirectory(prefix="ss4rec-") as scratch,
        table_file(source, Path(scratch) / "table", options) as path,
    ):
        yield Source.open(path, options, called=WHERE)
