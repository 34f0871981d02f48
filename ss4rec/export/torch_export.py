"""A run as programs of `torch.export`: files that any process with torch can load, without ss4rec.

step.pt2      one event of each user: rows, items, gaps, hours, ratings, profiles -> new rows, outputs
encode.pt2    one history: items, gaps, hours, ratings, profiles -> row, output
score.pt2     outputs, elapsed -> scores of all items
items.parquet, export.json: the vocabulary, and how the programs are used
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ss4rec.errors import SS4RecError, UsageError
from ss4rec.export.programs import HistoryEncoder, Scores
from ss4rec.io.atomic import new_folder, write_json
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.model.state import StateLayout, encode_states, read_out
from ss4rec.recommender import Recommender, load
from ss4rec.runs.folder import ITEMS_FILE
from ss4rec.states.state_model import StateModel
from ss4rec.states.traced import StateStep, example_step

MOST_USERS, MOST_PROFILE = 4096, 64
TOLERANCE = 1e-4
"""Largest difference to the model, in units of the largest number compared."""
VERSION = 1


class ExportError(SS4RecError):
    """A program that was written does not do what the model does."""


def export_torch(run: Path, out: Path, most_events: int = 1024) -> dict[str, Any]:
    """Write the programs of a run into a new folder and compare each with the model; returns `export.json`.

    Args:
        run: run folder; its best checkpoint is taken.
        out: folder that does not exist yet.
        most_events: longest history that the encoder takes.

    Raises:
        UsageError: if the folder exists, or the model has what no program holds.
        ExportError: if a program differs from the model; nothing is left behind.
    """
    require_new(out)
    recommender = load(run)
    model = recommender.model.requires_grad_(False)
    require_exportable(model)
    with new_folder(out) as draft:
        errors = {}
        for name, (module, example, shapes) in programs(model, most_events).items():
            with torch.no_grad():
                program = torch.export.export(module, example, dynamic_shapes=shapes)
            torch.export.save(program, draft / f"{name}.pt2")
            loaded = torch.export.load(draft / f"{name}.pt2").module()
            errors[name] = compare(name, loaded, model, min(40, most_events))
        facts = describe(recommender, most_events) | {"largest_error": errors}
        write_items(run, draft)
        write_json(draft / "export.json", facts)
    return facts


def programs(model: SequenceModel, most_events: int) -> dict[str, tuple[nn.Module, tuple[Tensor, ...], Any]]:
    """Return each module with arguments to record it by, and which of their sizes may differ."""
    users = torch.export.Dim("users", min=2, max=MOST_USERS)
    columns = torch.export.Dim("columns", min=2, max=MOST_PROFILE)
    events = torch.export.Dim("events", min=2, max=most_events)
    by_user, by_event = {0: users}, {0: events}
    step = example_arguments(model, 3)
    outputs = torch.zeros(3, width_of_outputs(model), dtype=step[0].dtype)
    return {
        "step": (StateStep(model).eval(), step, (by_user,) * 5 + ({0: users, 1: columns},)),
        "encode": (
            HistoryEncoder(model, most_events).eval(),
            example_arguments(model, 5)[1:],
            (by_event,) * 4 + ({0: events, 1: columns},),
        ),
        "score": (Scores(model).eval(), (outputs, torch.zeros(3)), (by_user, by_user)),
    }


def example_arguments(model: SequenceModel, users: int) -> tuple[Tensor, ...]:
    """Return arguments of the step, with profiles of three columns."""
    *first, _ = example_step(model, users)
    return (*first, torch.zeros(users, 3, dtype=torch.int64))


def random_arguments(model: SequenceModel, users: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return arguments of the step that say something."""
    draw = torch.Generator().manual_seed(seed)
    rows, items, gaps, hours, ratings, profiles = example_arguments(model, users)
    items = torch.randint(1, model.num_items + 1, items.shape, generator=draw)
    gaps = torch.exp(14 * torch.rand(users, generator=draw)) - 1
    hours = hours + torch.randint(0, 9000, hours.shape, generator=draw)
    ratings = torch.randint(1, 6, ratings.shape, generator=draw).float()
    profiles = torch.randint(0, 2, profiles.shape, generator=draw)
    profiles[:, 1:] = 0  # each code once
    return 0.3 * torch.randn(rows.shape, generator=draw), items, gaps, hours, ratings, profiles


def width_of_outputs(model: SequenceModel) -> int:
    """Return what leaves the blocks of all members."""
    return model.config.dim * len(model.members)


def compare(name: str, program: Callable[..., Any], model: SequenceModel, most: int = 40) -> float:
    """Return the largest difference between a program and the model, relative to the largest number.

    Args:
        name: `step`, `encode` or `score`.
        program: what is compared.
        model: what it was made from.
        most: users or events of the largest case.

    Raises:
        ExportError: if it is above `TOLERANCE`.
    """
    worst = 0.0
    for size in sorted({2, min(7, most), most}):
        rows, *events = random_arguments(model, size, seed=size)
        with torch.no_grad():
            if name == "step":
                found, wanted = program(rows, *events), StateStep(model)(rows, *events)
            elif name == "encode":
                from ss4rec.model.inputs import Context

                items, gaps, *context = events
                found = program(*events)
                wanted = encode_states(model, items, gaps, Segments.from_lengths([size]), Context(*context))
            else:
                outputs = torch.randn(size, width_of_outputs(model))
                elapsed = torch.linspace(-1, 1e6, size)
                found = (program(outputs, elapsed),)
                wanted = (read_out(model, outputs, elapsed) @ model.item_matrix().T,)
        for one, other in zip(found, wanted, strict=True):
            worst = max(worst, float((one - other).abs().max() / other.abs().max().clamp_min(1e-9)))
    if not worst <= TOLERANCE:
        raise ExportError(f"the exported {name} differs from the model by {worst:.1e}; please report it")
    return worst


def describe(recommender: Recommender, most_events: int) -> dict[str, Any]:
    """Return how the programs are used."""
    model, layout = recommender.model, StateLayout.of(recommender.model.config)
    logit = model.repeat_logit
    return {
        "format_version": VERSION,
        "model": StateModel(recommender).fingerprint,
        "state_width": layout.width,
        "output_width": width_of_outputs(model),
        "items": model.num_items,
        "most_events": most_events,
        "target_time": recommender.data.target_time,
        "unknown_gap_s": recommender.unknown_gap_s,
        "added_to_seen_items": 0.0 if logit is None else float(logit),
        "profile_values": list(recommender.profile_values or ()),
        "torch": torch.__version__,
        "inputs": {
            "rows": "float32 [users, state_width]; zeros before the first event",
            "items": "int64; row of items.parquet, from 1",
            "gaps": "float32 seconds: to the next event or the question if target_time, else since the event before",
            "hours": "int64 unix hours: of the next event or the question if target_time, else of the event",
            "ratings": "float32, NaN where unknown",
            "profiles": "int64 [users, columns], at least 2 columns; place in profile_values from 1, 0 is unknown",
            "elapsed": "float32 seconds from the newest event to the question, -1 where unknown",
        },
        "scores": "column i is item i of items.parquet; add added_to_seen_items where the history holds the item",
    }


def require_exportable(model: SequenceModel) -> None:
    """Refuse a model whose scores need more than its state."""
    if model.config.repeats == "habits":
        raise UsageError(
            "model.repeats=habits scores by when each item was taken, which no exported program holds; "
            "serve it with `ss4rec serve`, or train with model.repeats=learned"
        )


def require_new(out: Path) -> None:
    """Refuse a folder that is there already."""
    if out.exists():
        raise UsageError(f"{out} exists; give --out a new folder, or remove that one")


def write_items(run: Path, folder: Path) -> None:
    """Copy the vocabulary."""
    (folder / ITEMS_FILE).write_bytes((Path(run) / ITEMS_FILE).read_bytes())
