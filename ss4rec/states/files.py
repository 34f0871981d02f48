"""States on disk: an Arrow file that says its version and which model the states belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ss4rec.errors import CheckpointError
from ss4rec.io.atomic import write_whole
from ss4rec.states.packed import Packed
from ss4rec.states.state import Known, Seen, State
from ss4rec.states.state_model import StateModel

VERSION = 1
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("memory", pa.list_(pa.binary())),
        ("output", pa.binary()),
        ("item", pa.int32()),
        ("time_s", pa.int64()),
        ("rating", pa.float32()),
        ("context", pa.list_(pa.int32())),
        ("profile", pa.list_(pa.int32())),
        ("events", pa.int64()),
        ("clock_s", pa.int64()),
        ("seen", pa.list_(pa.int32())),
        ("facts", pa.list_(pa.int64())),
    ]
)


def write_states(path: Path, states: Mapping[str, State], model: StateModel) -> None:
    """Write the states of some users, whole or not at all."""
    write_whole(path, states_to_bytes(states, model))


def read_states(path: Path, model: StateModel) -> dict[str, State]:
    """Read states by user.

    Raises:
        CheckpointError: if the file is damaged, of another version, or its states belong to another model: they are
            made again from the events.
    """
    try:
        data = pa.memory_map(str(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(f"{path} holds no states ({error}); encode the histories again") from None
    return states_from_bytes(data, model, str(path))


def states_to_bytes(states: Mapping[str, State], model: StateModel) -> bytes:
    """Return the content of a file of states."""
    rows = [_row(user, state) for user, state in states.items()]
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(_facts(model)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def states_from_bytes(data: bytes | pa.NativeFile, model: StateModel, where: str) -> dict[str, State]:
    """Return the states of a file by user; `where` is what messages call it. Raises as `read_states` does."""
    try:
        table = pa.ipc.open_file(data).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(f"{where} holds no states ({error}); encode the histories again") from None
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    wrong = [
        f"{name} {found.get(name)}, not {value}"
        for name, value in _facts(model).items()
        if found.get(name) != value
    ]
    if wrong or table.schema.names != SCHEMA.names:
        raise CheckpointError(
            f"{where} has states of {'; '.join(wrong) or 'other columns'}; encode the histories again"
        )
    return {row["user"]: _state(row, model, where) for row in table.to_pylist()}


def _facts(model: StateModel) -> dict[str, str]:
    """Return what a file must say about its states."""
    kind = str(model.kind).removeprefix("torch.")
    return {"version": str(VERSION), "model": model.fingerprint, "precision": model.precision, "kind": kind}


def _row(user: str, state: State) -> dict[str, object]:
    """Return a state as a row of a file."""
    newest = state.newest
    return {
        "user": user,
        "memory": [_bytes(part) for part in state.memory.parts],
        "output": None if state.output_D is None else _bytes(state.output_D),
        "item": newest.item,
        "time_s": newest.time_s,
        "rating": newest.rating,
        "context": newest.codes,
        "profile": state.profile,
        "events": state.events,
        "clock_s": state.clock_s,
        "seen": state.seen.items_X,
        "facts": None if state.seen.facts_X3 is None else state.seen.facts_X3.ravel(),
    }


def _state(row: dict[str, Any], model: StateModel, where: str) -> State:
    """Return the state of a row; raises CheckpointError where it is not whole."""
    empty = Packed.of(torch.zeros(1, model.layout.width, dtype=model.kind), model.precision, model.layout)
    if [len(data) for data in row["memory"]] != [part.nbytes for part in empty.parts]:
        raise CheckpointError(
            f"{where}: the state of user {row['user']} is not whole; encode the history again"
        )
    parts = (
        _tensor(data, like.dtype).view(like.shape).to(model.device)
        for data, like in zip(row["memory"], empty.parts, strict=True)
    )
    memory = Packed(model.precision, model.layout, tuple(parts))
    facts = row["facts"]
    seen = Seen(
        np.array(row["seen"], np.int32), None if facts is None else np.array(facts, np.int64).reshape(-1, 3)
    )
    return State(
        model,
        memory,
        None if row["output"] is None else _tensor(row["output"], model.kind).to(model.device),
        Known(row["item"], row["time_s"], row["rating"], tuple(row["context"])),
        tuple(row["profile"]),
        row["events"],
        row["clock_s"],
        seen,
    )


def _bytes(tensor: Tensor) -> bytes:
    data: bytes = tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return data


def _tensor(data: bytes, kind: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
