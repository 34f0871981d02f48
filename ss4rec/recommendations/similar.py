"""Items that are like an item: the cosine of the rows that hidden states are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ss4rec.data.prepare.work_folder import WorkFolder
from ss4rec.data.prepared.manifest import MANIFEST_NAME, file_record
from ss4rec.errors import UsageError
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import AnyPath
from ss4rec.recommendations.filters import Filters
from ss4rec.recommendations.items import Items
from ss4rec.recommendations.nearest import most_similar, unit_rows
from ss4rec.recommendations.options import Format, Layout
from ss4rec.recommendations.output import (
    PART,
    ModelRecord,
    PartRecord,
    check_free,
    lists_table,
    model_record,
    remove_drafts,
    write_part,
)
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model

ITEMS_PER_PART = 2048


class SimilarManifest(BaseModel):
    """The content of `manifest.json` beside lists of similar items."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format_version: int = 1
    """Version of this folder's format."""
    kind: str = "similar items"
    """What the folder holds."""
    model: ModelRecord
    """Whose item rows were compared."""
    k: int
    """Most items of a list."""
    where: str | None = None
    """Condition that similar items fulfil."""
    layout: Layout
    """A row per item, or a row per pair."""
    columns: dict[str, str]
    """Arrow type of every column."""
    files: tuple[PartRecord, ...]
    """The files, items in the run's order; `users` counts items that have a list."""


def similar_tables(
    run: RunFolder,
    asked_N: npt.NDArray[np.int64],
    k: int,
    *,
    where: str | None = None,
    items: Items | None = None,
    layout: Layout = "lists",
    device: str = "cpu",
) -> Iterator[pa.Table]:
    """Yield tables of `item`, `similar`, `score` (cosine), `rank`, for `ITEMS_PER_PART` items each.

    Args:
        run: the run.
        asked_N: the run's numbers of the items that are asked for.
        k: most similar items of each.
        where: condition that these fulfil (`ss4rec.recommendations.where`).
        items: the run's items, if they are there already.
        layout: lists, or a row per pair.
        device: where the rows are compared.

    Raises:
        UsageError: if no item fulfils the condition.
    """
    known = items or Items.of(run)
    model, _ = load_model(run.path, device)
    filters = Filters(None if where is None else known.fulfilling(where))
    unit_VD = unit_rows(model.item_matrix())
    for first in range(0, len(asked_N), ITEMS_PER_PART):
        part_N = asked_N[first : first + ITEMS_PER_PART]
        items_NK, best_NK = most_similar(unit_VD, part_N, k, filters)
        yield lists_table(
            known.source_id.take(pa.array(part_N - 1)),
            known.source_id,
            items_NK.cpu().numpy(),
            best_NK.cpu().numpy(),
            layout,
            names=("item", "similar"),
        )


def asked_items(items: Items, wanted: list[str] | tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the run's numbers of items that are named as texts.

    Raises:
        UsageError: naming those that the run does not know.
    """
    found = items.find(pa.array(wanted, pa.string()))
    unknown = [text for text, item in zip(wanted, found, strict=True) if item == 0]
    if unknown:
        raise UsageError(
            f"the run does not know {len(unknown)} items: {', '.join(unknown[:20])}; its ids are like "
            f"{', '.join(items.texts.slice(0, 5).to_pylist())}"
        )
    return found


def similar_run(
    run_dir: Path,
    out: AnyPath,
    asked_N: npt.NDArray[np.int64],
    k: int,
    *,
    where: str | None = None,
    items: Items | None = None,
    layout: Layout = "lists",
    kind: Format = "parquet",
    device: str = "cpu",
    overwrite: bool = False,
) -> SimilarManifest:
    """Write the items most like each asked one into a folder, which appears whole; arguments as `similar_tables`.

    Raises:
        DataError: if `out` is taken.
        UsageError: as `similar_tables`.
    """
    run = RunFolder.open(run_dir)
    model = model_record(run)
    known = items or Items.of(run)
    if where is not None:
        known.fulfilling(where)  # refused before anything is written
    plan = {"model": model.model_dump(), "k": k, "where": where, "layout": layout, "format": kind}
    work, _ = WorkFolder.enter(out, overwrite, {**plan, "similar": len(asked_N)}, check_free)
    records: list[PartRecord] = []
    schema: Any = None
    with work.publishing():
        tables = similar_tables(run, asked_N, k, where=where, items=known, layout=layout, device=device)
        for number, table in enumerate(tables):
            schema = table.schema
            path = work.result / f"{PART}{number:05d}.{kind}"
            write_part(path, table, kind)
            asked = len(asked_N[number * ITEMS_PER_PART :][:ITEMS_PER_PART])
            pairs = table.num_rows if layout == "pairs" else len(table["similar"].combine_chunks().values)
            records.append(
                PartRecord(
                    name=path.name, users=asked, lists=asked, items=pairs, **file_record(path).model_dump()
                )
            )
        manifest = SimilarManifest(
            model=model,
            k=k,
            where=where,
            layout=layout,
            columns={column.name: str(column.type) for column in schema},
            files=tuple(records),
        )
        remove_drafts(work.result)
        text = manifest.model_dump_json(indent=2, exclude_none=True) + "\n"
        write_whole(work.result / MANIFEST_NAME, text.encode(), durable=True)
    return manifest
