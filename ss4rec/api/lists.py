"""Lists for everybody in files, and scores of given pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from ss4rec.api.data import AnyFolder
from ss4rec.api.results import Run
from ss4rec.api.tables import as_arrow, as_kind_of, histories
from ss4rec.api.training import Device, chosen_device
from ss4rec.data.moments import Moment, unix_seconds
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources import Source, TableOptions
from ss4rec.data.sources.columns import GUESSES
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, to_path
from ss4rec.recommendations.beside import Beside
from ss4rec.recommendations.job import FileOfHistories, recommend_run
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import RecommendManifest, read_lists
from ss4rec.recommender import Recommender

if TYPE_CHECKING:
    import pandas as pd

_TableT = TypeVar("_TableT")
AnyFile = str | os.PathLike[str]


@dataclass(frozen=True)
class Recommendations:
    """A folder of lists."""

    path: AnyPath
    """Where it lies."""
    manifest: RecommendManifest
    """Model, data, options, and size and checksum of every file."""

    @classmethod
    def open(cls, path: AnyFile) -> Recommendations:
        """Open a folder that was written before.

        Raises:
            DataError: if it is none.
        """
        folder = to_path(os.fspath(path))
        return cls(folder, RecommendManifest.load(folder))

    def to_arrow(self) -> pa.Table:
        """Return all lists: `user`, `item`, `score`, `rank`.

        Raises:
            DataError: if a file is missing or damaged, or is no Parquet.
        """
        return read_lists(self.path)

    def to_pandas(self) -> pd.DataFrame:
        """Return all lists as `to_arrow` does."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame


def recommend_all(
    run: Run | AnyFile,
    data: AnyFolder,
    out: AnyFile,
    *,
    at: Moment | None = None,
    allow: Sequence[AnyFile] = (),
    deny: Sequence[AnyFile] = (),
    users: AnyFile | None = None,
    item_features: AnyFile | None = None,
    columns: Mapping[str, str] | None = None,
    context: Sequence[str] = (),
    device: Device = "auto",
    workers: int | None = None,
    address: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Recommendations:
    """Write the best items of every user into a folder; `ss4rec recommend`.

    Args:
        run: the run, or its folder.
        data: a prepared folder, or a file of events of people whom the run need not know.
        out: folder or URI to write; it appears whole.
        at: moment for which to recommend, from the events up to it; None: for each user the median gap after the last.
        allow: files of items that may be recommended, to all users or, with a column `user`, to these.
        deny: files of items that must not be recommended, in the same form.
        users: file of users; None: all.
        item_features: file of columns about items for `where`, `limits` and `by`.
        columns: column of `user`, `item`, `time` of a file of events.
        context: its columns about events that the model reads.
        device: where models run.
        workers: models that work at a time, on Ray; None works in this process.
        address: Ray cluster, as for `train`.
        overwrite: replace an older result.
        options: fields of `RecommendOptions`: `k`, `seen`, `until`, `where`, `limits`, `rerank`, `weight`, `by`,
            `pool`, `layout`, `format`.

    Raises:
        DataError: if something cannot be read, or `out` is taken.
        UsageError: for options that do not fit.
    """
    asked = RecommendOptions.of(at_s=None if at is None else int(unix_seconds([at], "at")[0]), **options)
    beside = Beside(
        tuple(to_path(os.fspath(path)) for path in allow),
        tuple(to_path(os.fspath(path)) for path in deny),
        None if users is None else to_path(os.fspath(users)),
        None if item_features is None else to_path(os.fspath(item_features)),
    )
    path, where = to_path(os.fspath(out)).absolute(), chosen_device(device).type
    runner, around = None, nullcontext()
    if workers is not None or address is not None:
        from ss4rec.cluster.connect import cluster
        from ss4rec.recommendations.ray_recommend import on_ray

        runner, around = on_ray(workers or 1, where == "cuda"), cluster(address)  # type: ignore[assignment]
    with around:
        manifest = recommend_run(
            Run(run).path,
            path,
            _histories(data, columns or {}, context),
            asked,
            beside=beside,
            device=where,
            runner=runner,
            overwrite=overwrite,
        )
    return Recommendations(path, manifest)


def _histories(
    data: AnyFolder, columns: Mapping[str, str], context: Sequence[str]
) -> PreparedFolder | FileOfHistories:
    """Open a prepared folder or a file."""
    if isinstance(data, PreparedFolder):
        return data
    path = to_path(os.fspath(data)).absolute()
    if isinstance(path, Path) and path.is_dir():
        return PreparedFolder.open(path)
    return FileOfHistories(Source.open(path, TableOptions(dict(columns), context=tuple(context))))


def score(
    run: Run | Recommender | AnyFile,
    events: object,
    pairs: _TableT,
    *,
    columns: Mapping[str, str] | None = None,
    at: Moment | None = None,
    ignore_unknown: bool = True,
    device: Device = "cpu",
) -> _TableT:
    """Return a table of pairs of user and item with the model's score of each.

    Args:
        run: the run, its folder, or what `ss4rec.load` returned.
        events: what users did, as for `recommend`.
        pairs: a table with columns of user and item, named as in `events`, or by common names.
        columns: column of `user`, `item`, `time`, `rating`; common names are recognised without it.
        at: moment for which to score; None: for each user the median training gap after the last event.
        ignore_unknown: score pairs NaN whose user has no event, or whose item the run does not know; False refuses
            them.
        device: where the model runs.

    Returns:
        `pairs` with a column `score`, which compares within a user only.

    Raises:
        DataError: if a column is missing.
        UsageError: for unknown items with `ignore_unknown=False`.
    """
    known = run if isinstance(run, Recommender) else Run(run).load(str(chosen_device(device)))
    users, wanted = histories(events, columns or {}, known, at, ignore_unknown)
    table = as_arrow(pairs)
    user, item = (_pair_column(table, role, columns or {}) for role in ("user", "item"))
    owners = table[user].to_pylist()
    items = table[item].to_pylist()
    rows: dict[Any, list[int]] = {}
    for row, owner in enumerate(owners):
        rows.setdefault(owner, []).append(row)
    scores_R = np.full(table.num_rows, np.nan, np.float32)
    order = [(place, rows[owner]) for place, owner in enumerate(users.ids.to_pylist()) if owner in rows]
    missing = set(rows) - set(users.ids.to_pylist())
    if missing and not ignore_unknown:
        raise DataError(f"{len(missing)} users of the pairs have no event, as {sorted(map(str, missing))[0]}")
    found = known.score_many(
        [wanted[place] for place, _ in order],
        [[items[row] for row in own] for _, own in order],
        ignore_unknown=ignore_unknown,
    )
    for (_, own), scores in zip(order, found, strict=True):
        scores_R[own] = scores
    result: _TableT = as_kind_of(pairs, table.append_column("score", pa.array(scores_R)))
    return result


def _pair_column(table: pa.Table, role: str, columns: Mapping[str, str]) -> str:
    """Return the column of users or items of a table of pairs."""
    names = [columns[role]] if role in columns else GUESSES[role]
    plain = {name.replace("_", "").lower(): name for name in table.column_names}
    for name in names:
        if name.replace("_", "").lower() in plain:
            return str(plain[name.replace("_", "").lower()])
    raise DataError(
        f"the pairs have the columns {', '.join(table.column_names)}; name the {role} with columns={{'{role}': ..}}"
    )
