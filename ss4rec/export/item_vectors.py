"""Item vectors: the rows that a user's state is multiplied with to get scores.

OUT/items.parquet    row i - 1 is item i: `item`, `source_id`, `title`, `vector`
OUT/vectors.npy      float32, items x dimensions, in the same order
OUT/manifest.json    model, sizes, and checksums of the two
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ss4rec.data.prepared.manifest import MANIFEST_NAME, FileRecord, file_record
from ss4rec.data.prepared.tables import read_items, write_table
from ss4rec.errors import DataError
from ss4rec.io.atomic import new_folder, write_whole
from ss4rec.recommendations.nearest import unit_rows
from ss4rec.recommendations.output import ModelRecord, model_record
from ss4rec.runs.folder import ITEMS_FILE, RunFolder
from ss4rec.runs.load import load_model

VECTORS_FILE = "vectors.npy"
ManifestType = TypeVar("ManifestType", bound=BaseModel)


class VectorsManifest(BaseModel):
    """The content of `manifest.json` beside item vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    """Version of this folder's format."""
    kind: str = "item vectors"
    """What the folder holds."""
    model: ModelRecord
    """Whose rows they are."""
    items: int
    """Rows."""
    dimensions: int
    """Columns of `vectors.npy`."""
    unit_length: bool
    """Whether rows were brought to length 1, for the likeness of items; else their products with a state are scores."""
    repeats: str
    """What the model adds to the score of an item that the history holds (`model.repeats`); it is not in the rows."""
    files: dict[str, FileRecord]
    """The files."""


def export_items(
    run_dir: Path, out: Path, *, unit_length: bool = False, overwrite: bool = False
) -> VectorsManifest:
    """Write the item vectors of a run's best checkpoint into a folder, which appears whole.

    Args:
        run_dir: the run folder.
        out: folder to write.
        unit_length: bring rows to length 1.
        overwrite: replace what an earlier export left at `out`.

    Raises:
        DataError: if `out` is taken.
    """
    run = RunFolder.open(run_dir)
    check_free(out, {ITEMS_FILE, VECTORS_FILE}, overwrite)
    record = model_record(run)
    vectors_ID = item_vectors(run, unit_length)
    table = read_items(run.path).select(["item", "source_id", "title"])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ID.ravel()), vectors_ID.shape[1])

    def fill(folder: Path) -> None:
        write_table(table.append_column("vector", vectors), folder / ITEMS_FILE)
        buffer = io.BytesIO()
        np.save(buffer, vectors_ID)
        write_whole(folder / VECTORS_FILE, buffer.getvalue())

    def describe(files: dict[str, FileRecord]) -> VectorsManifest:
        return VectorsManifest(
            model=record,
            items=len(vectors_ID),
            dimensions=vectors_ID.shape[1],
            unit_length=unit_length,
            repeats=run.config().model.repeats,
            files=files,
        )

    return publish(out, fill, describe)


def item_vectors(run: RunFolder, unit_length: bool = False) -> npt.NDArray[np.float32]:
    """Return the rows of items 1, 2, ... of a run's best checkpoint, float32 `[I, D]`."""
    model, _ = load_model(run.path)
    weight_VD = model.item_matrix()
    rows_VD = unit_rows(weight_VD) if unit_length else weight_VD.detach().float()
    vectors_ID: npt.NDArray[np.float32] = rows_VD[1:].numpy()
    return np.ascontiguousarray(vectors_ID)


def publish(
    out: Path, fill: Callable[[Path], None], describe: Callable[[dict[str, FileRecord]], ManifestType]
) -> ManifestType:
    """Write a folder that appears whole: its files, and a manifest with their checksums.

    Args:
        out: the folder.
        fill: writes the files into a folder.
        describe: makes the manifest.

    Raises:
        DataError: if it cannot be written.
    """
    try:
        with new_folder(out) as folder:
            fill(folder)
            manifest = describe({path.name: file_record(path) for path in sorted(folder.iterdir())})
            text = manifest.model_dump_json(indent=2, exclude_none=True) + "\n"
            write_whole(folder / MANIFEST_NAME, text.encode(), durable=True)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; give another --out") from None
    return manifest


def check_free(out: Path, own: set[str], overwrite: bool) -> None:
    """Refuse an `out` that is taken, unless it holds an earlier export and nothing else, and may be replaced.

    Args:
        out: the folder.
        own: names of the files of an export beside its manifest.
        overwrite: whether an earlier export may be replaced.

    Raises:
        DataError: saying what stands there.
    """
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if names - own - {MANIFEST_NAME} or not out.is_dir():
        raise DataError(f"{out} holds other files ({', '.join(sorted(names)[:5])}); give an empty folder")
    if names and not overwrite:
        raise DataError(f"{out} holds an earlier export; add --overwrite to replace it")
