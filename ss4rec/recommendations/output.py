"""Files of recommendations, and the manifest that describes them.

DIR/part-00000.parquet, ...   lists of users in ascending order, across files too
DIR/manifest.json             model, data, options, and size and checksum of every file
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from ss4rec.data.prepared.manifest import MANIFEST_NAME, FileRecord
from ss4rec.errors import DataError
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import read_json
from ss4rec.recommendations.options import Format, Layout, RecommendOptions
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder

PART = "part-"


class PartRecord(FileRecord):
    """One file of lists."""

    name: str
    """Name in the folder."""
    users: NonNegativeInt
    """Users with a list."""
    lists: NonNegativeInt
    """Lists: several for a user who has several held-out events."""
    items: NonNegativeInt
    """Items of all lists."""


class ModelRecord(BaseModel):
    """Which model made the lists."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    fingerprint: str
    """Of the run's configuration."""
    weights_sha256: str
    """Of `model.safetensors` of the checkpoint."""
    step: NonNegativeInt
    """Step of the checkpoint."""


class DataRecord(BaseModel):
    """Whose histories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    """`data_fingerprint` of the prepared folder; of a file of histories, of its content and how it was read."""
    users: NonNegativeInt
    """Users with an event."""
    unknown_events: NonNegativeInt = 0
    """Events of items that the run does not know; they are left out."""
    users_without_known_items: NonNegativeInt = 0
    """Users of a file of histories of whom no event was left."""
    quarantined: NonNegativeInt = 0
    """Rows of a file of histories that cannot be used."""


class ListRecord(BaseModel):
    """A file that was given beside: allowed or denied items, users, or columns of items."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    unknown_items: NonNegativeInt = 0
    """Rows of items that the run does not know."""


class RecommendManifest(BaseModel):
    """The content of `manifest.json`; it has no time in it, so that the same job gives the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    """Version of this folder's format."""
    kind: str = "recommendations"
    """What the folder holds."""
    model: ModelRecord
    """Which model made the lists."""
    data: DataRecord
    """Whose histories."""
    options: RecommendOptions
    """What was asked for."""
    files_given: dict[str, tuple[ListRecord, ...]] = {}
    """Files beside, by option."""
    unknown_users: NonNegativeInt = 0
    """Rows in these files of users who are not in the data."""
    device: str
    """`cpu` or `cuda`: the last bits of scores depend on it."""
    users: NonNegativeInt
    """Users with a list."""
    lists: NonNegativeInt
    """Lists."""
    items: NonNegativeInt
    """Items of all lists."""
    columns: dict[str, str]
    """Arrow type of every column."""
    files: tuple[PartRecord, ...]
    """The files, in the order of users."""

    def to_json(self) -> str:
        """Return the content of `manifest.json`."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def load(cls, folder: AnyPath) -> RecommendManifest:
        """Read the manifest of a folder of recommendations.

        Raises:
            DataError: if there is none that can be read.
        """
        path = folder / MANIFEST_NAME
        try:
            return cls.model_validate(read_json(path))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{folder} is no folder of recommendations: {path} cannot be read ({error})"
            ) from None


def check_free(out: AnyPath, overwrite: bool, unfinished: bool) -> None:
    """Refuse an existing `out`, unless it is empty or, with `overwrite`, holds recommendations and nothing else.

    Raises:
        DataError: saying what stands there.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; give a folder that does not exist yet")
    names = {path.name for path in out.iterdir()}
    others = {name for name in names if name != MANIFEST_NAME and not name.lstrip(".").startswith(PART)}
    if others or not (MANIFEST_NAME in names or unfinished or not names):
        raise DataError(
            f"{out} holds other files ({', '.join(sorted(others or names)[:5])}); give an empty folder"
        )
    if MANIFEST_NAME in names and not overwrite:
        raise DataError(
            f"{out} holds a result that was asked for otherwise; add --overwrite to replace it, or give another --out"
        )


def model_record(run: RunFolder) -> ModelRecord:
    """Return what says which model a run is now: its best checkpoint.

    Raises:
        CheckpointError: if no checkpoint is intact.
    """
    chosen = checkpoint.best(run.checkpoints)
    return ModelRecord(
        run=run.path.name,
        fingerprint=run.config().fingerprint(),
        weights_sha256=chosen.model_sha256,
        step=chosen.global_step,
    )


def lists_table(
    user_ids: pa.Array,
    item_ids: pa.Array,
    items_NK: npt.NDArray[np.int64],
    scores_NK: npt.NDArray[np.float32],
    layout: Layout,
    histories_N: npt.NDArray[np.int64] | None = None,
    names: tuple[str, str] = ("user", "item"),
) -> pa.Table:
    """Return lists as a table.

    Args:
        user_ids: source id of each list's user.
        item_ids: source id of item 1, 2, ...
        items_NK: items, best first, 0 for an empty place.
        scores_NK: their scores.
        layout: a row per list, or a row per item.
        histories_N: events before each list, where users have several.
        names: of the columns of whose lists they are, and of what they hold.

    Returns:
        `user`, perhaps `history`, `item`, `score`, `rank` (from 1): lists or single values.
    """
    filled_NK = items_NK > 0
    counts_N = filled_NK.sum(1)
    flat_X = {
        names[1]: item_ids.take(pa.array(items_NK[filled_NK] - 1)),
        "score": pa.array(scores_NK[filled_NK].astype(np.float32)),
        "rank": pa.array((filled_NK.cumsum(1)[filled_NK]).astype(np.int32)),
    }
    owners: dict[str, pa.Array] = {names[0]: user_ids}
    if histories_N is not None:
        owners["history"] = pa.array(histories_N.astype(np.int32))
    if layout == "pairs":
        places = pa.array(np.repeat(np.arange(len(counts_N)), counts_N))
        return pa.table({name: column.take(places) for name, column in owners.items()} | flat_X)
    offsets = pa.array(np.concatenate([[0], counts_N.cumsum()]).astype(np.int32))
    return pa.table(
        owners | {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat_X.items()}
    )


def write_part(path: AnyPath, table: pa.Table, kind: Format) -> None:
    """Write a file that appears whole or not at all."""
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        # Ids and scores have too many values for a dictionary: trying one takes half of the time, and half more bytes.
        few = [name for name in ("user", "history", "item", "rank") if not _is_many(table, name)]
        few = [f"{name}.list.element" if pa.types.is_list(table[name].type) else name for name in few]
        pq.write_table(
            table, sink, compression="zstd", row_group_size=max(table.num_rows, 1), use_dictionary=few
        )
        write_whole(path, sink.getvalue())
    elif kind == "csv":
        sink = pa.BufferOutputStream()
        pacsv.write_csv(table, sink)
        write_whole(path, sink.getvalue())
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in _readable(table).to_pylist())
        write_whole(path, "".join(lines).encode())


def _is_many(table: pa.Table, name: str) -> bool:
    """Return whether a column is missing or holds ids of items that are numbers."""
    if name not in table.column_names:
        return True
    kind = table[name].type
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return name == "item" and not pa.types.is_string(inner)


def _readable(table: pa.Table) -> pa.Table:
    """Return a table with scores in float64 of as few digits as name the float32: 0.1 and not 0.10000000149."""
    place = table.column_names.index("score")
    column = table["score"].combine_chunks()
    if isinstance(column, pa.ListArray):
        flat = _shortest(column.flatten())
        return table.set_column(place, "score", pa.ListArray.from_arrays(column.offsets, flat))
    return table.set_column(place, "score", _shortest(column))


def _shortest(scores: pa.Array) -> pa.Array:
    return pc.cast(pc.cast(scores, pa.string()), pa.float64())


def remove_drafts(result: AnyPath) -> None:
    """Remove what a process that was killed while it wrote has left; nobody writes any more."""
    if isinstance(result, Path):
        for path in result.iterdir():
            if path.name.startswith("."):
                path.unlink()


def read_lists(folder: str | AnyPath) -> pa.Table:
    """Read all Parquet files of a folder of recommendations as one table.

    Raises:
        DataError: if it is no such folder, or a file is missing or damaged.
    """
    from ss4rec.io.atomic import sha256_of
    from ss4rec.io.paths import to_path

    path = to_path(folder)
    manifest = RecommendManifest.load(path)
    if manifest.options.format != "parquet":
        raise DataError(f"{folder} holds {manifest.options.format} files; read them with any other program")
    parts = []
    for record in manifest.files:
        file = path / record.name
        if not file.is_file() or sha256_of(file) != record.sha256:
            raise DataError(f"{file} is missing or damaged; make the recommendations again")
        with file.open("rb") as stream:
            parts.append(pq.read_table(stream))
    return pa.concat_tables(parts)
