"""A protocol's division of a prepared folder as tables: any other program can train and test on the same events.

DIR/events.parquet    all events that count, by user and time: `user`, `item` (ids of the source), `time` (unix
                      seconds), `rating`, `trains`
DIR/valid.parquet     what chooses the model: `user`, `item`, `time`, `history` (events of the user in events.parquet
DIR/test.parquet      before it), `cold` (the item never trains, so it is in no history: a miss)
DIR/protocol.json     the protocol
DIR/division.json     rows, users and items of each part
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import write_table
from ss4rec.errors import DataError
from ss4rec.io.atomic import write_json
from ss4rec.protocol.divide import Events, Targets
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol

EVENTS_NAME, VALID_NAME, TEST_NAME = "events.parquet", "valid.parquet", "test.parquet"


def export_division(data: Path, out: Path, protocol: Protocol) -> Plan:
    """Write the tables of the module's text.

    Raises:
        DataError: if `out` is taken, or the protocol does not fit the data.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; give another --out")
    folder = PreparedFolder.open(data)
    plan = make_plan(protocol, folder)
    user_ids = folder.users["source_id"].combine_chunks()
    item_ids = folder.items["source_id"].combine_chunks()
    parts: dict[str, list[pa.Table]] = {name: [] for name in (EVENTS_NAME, VALID_NAME, TEST_NAME)}
    for number in range(len(folder.manifest.shards)):
        division = plan.divide(folder.read_shard(number))
        known = Events.of(division.histories)
        place_E = np.arange(len(known.items_E)) - np.repeat(known.offsets_U1[:-1], known.counts_U)
        parts[EVENTS_NAME].append(
            pa.table(
                {
                    "user": user_ids.take(pa.array(known.user_E)),
                    "item": item_ids.take(pa.array(_folder_items(plan, known.items_E) - 1)),
                    "time": known.times_E,
                    "rating": known.ratings_E,
                    "trains": place_E < np.repeat(division.fit_U, known.counts_U),
                }
            )
        )
        for name, targets in ((VALID_NAME, division.valid), (TEST_NAME, division.test)):
            parts[name].append(_targets(targets, known, user_ids, item_ids))
    out.mkdir(parents=True, exist_ok=True)
    for name, tables in parts.items():
        write_table(pa.concat_tables(tables), out / name)
    write_json(out / "protocol.json", protocol.model_dump(mode="json"))
    write_json(out / "division.json", plan.facts)
    return plan


def _targets(targets: Targets, known: Events, user_ids: pa.Array, item_ids: pa.Array) -> pa.Table:
    """Return the targets of a shard by the source's ids."""
    return pa.table(
        {
            "user": user_ids.take(pa.array(known.users_U[targets.row_N])),
            "item": item_ids.take(pa.array(targets.source_N - 1)),
            "time": targets.times_N,
            "history": targets.ends_N,
            "cold": targets.items_N == 0,
        }
    )


def _folder_items(plan: Plan, items_X: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the folder's index of the model's items; 0 stays 0."""
    if plan.items_I is None:
        return items_X.astype(np.int64)
    return np.asarray(np.concatenate([[0], plan.items_I])[items_X].astype(np.int64))
