"""States of users: their size, how far they are from encoding the whole history, and what one event costs.

    python -m benchmarks.states --run runs/ml-1m --data data/ml-1m     # a trained run: also what compact states lose
    python -m benchmarks.states --preset ml_1m_best                    # random weights: parity, sizes, times
    python -m benchmarks.states --device cuda                          # the same on a card

Parity: for every input option, and for the recipe itself, random histories of 1 to 2,000 events are begun anywhere and
continued event by event; the reference is one pass of the model over the whole history, many histories at a time. All
are compared in float32, a part of them in float64 too. Compact states are compared with full ones after their users' last
events were taken in one by one. With `--rows FOLDER` each row of parity is kept there, so that the same command goes on,
and `--only NAME` measures some of them beside other processes. It prints each row when it is there and writes `states-<YYYYMMDD>.json`, on a card
`states-gpu-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.record import headline, write_record
from benchmarks.states.compact import compact, real_histories
from benchmarks.states.models import OPTIONS, preset_recommender, random_history
from benchmarks.states.parity import ASK_AFTER_S, every_option, once, parity
from benchmarks.states.timing import event_ms
from ss4rec.recommender import Recommender, load
from ss4rec.states import StateModel

GOALS = {
    "state.kib_per_user": 40.0,
    "state.max_score_error": 1e-4,
    "state.event_ms_cpu": 3.0,
    "state.event_ms_per_user_gpu": 0.5,
    "state.max_score_error_gpu": 1e-4,
}
BATCH = 1024
RECIPE = "recipe"
"""Name of the run or preset itself for `--only`."""
RANDOM_LENGTH = 165
"""Events of a random user: ML-1M's mean."""


@click.command(help=__doc__)
@click.option(
    "--run", type=click.Path(path_type=Path), help="A trained run; otherwise --preset with random weights."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Its prepared folder: what compact states lose."
)
@click.option("--preset", default="ml_1m_best", show_default=True)
@click.option("--items", default=3416, show_default=True, help="Of the catalogue where there is no --run.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--histories", default=1000, show_default=True, help="Of each row of parity in float32.")
@click.option("--exact", default=100, show_default=True, help="Of each row in float64, on the CPU.")
@click.option("--longest", default=2000, show_default=True, help="Events of the longest history.")
@click.option("--updates", default=40, show_default=True, help="Most events that are taken in one by one.")
@click.option("--users", default=500, show_default=True, help="For the loss of compact states.")
@click.option("--rounds", default=200, show_default=True, help="Repeats of a time.")
@click.option("--rows", "kept", type=click.Path(path_type=Path), help="Folder that keeps rows of parity.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([RECIPE, *OPTIONS]),
    help="Measure parity of these into --rows and nothing else.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(
    run: Path | None,
    data: Path | None,
    preset: str,
    items: int,
    device: str,
    histories: int,
    exact: int,
    longest: int,
    updates: int,
    users: int,
    rounds: int,
    kept: Path | None,
    only: tuple[str, ...],
    out: Path | None,
) -> None:
    """Measure, print, and write a record if asked to."""
    torch.set_num_threads(1)
    recommender = load(run, device) if run else preset_recommender(preset, items, device)
    name = f"{run.name if run else preset}, {'trained' if run else 'random weights'}"
    if only:
        chosen = [one for one in only if one != RECIPE]
        if RECIPE in only:
            recipe_row(recommender, name, histories, longest, updates, kept)
        if chosen:
            every_option(device, histories, longest, updates, exact, chosen, kept)
        return
    timed, sizes = times(recommender, rounds), losses(recommender, data if run else None, users, updates)
    recipe = recipe_row(recommender, name, histories, longest, updates, kept)
    options = every_option(device, histories, longest, updates, exact, (), kept)
    rows = [*timed, *sizes, recipe, *options]
    if out:
        kind = "states" if device == "cpu" else "states-gpu"
        print(write_record(kind, rows, headlines(timed, sizes, [recipe, *options], device), out))


def recipe_row(
    recommender: Recommender, name: str, histories: int, longest: int, updates: int, kept: Path | None
) -> dict[str, Any]:
    """Return the row of parity of the model itself."""
    key = f"{RECIPE}-{name.replace(', ', '-').replace(' ', '-')}-{recommender.device.type}-{histories}-{longest}"
    states = StateModel(recommender)
    row = once(kept, f"{key}-{updates}", lambda: parity(name, states, histories, longest, updates))
    _show(row)
    return row


def times(recommender: Recommender, rounds: int) -> list[dict[str, Any]]:
    """Return what an event costs alone, compact and full, and in a batch."""
    rows = []
    for precision, users in (("int8", 1), ("full", 1), ("int8", BATCH), ("full", BATCH)):
        states = StateModel(recommender, precision, traced=True)  # type: ignore[arg-type]  # literals
        rows.append(event_ms(states, users, rounds if users == 1 else max(5, rounds // 20)))
        _show(rows[-1])
    return rows


def losses(recommender: Recommender, data: Path | None, users: int, updates: int) -> list[dict[str, Any]]:
    """Return what compact states weigh and lose, for users of a prepared folder or random ones."""
    if data is not None:
        histories, targets, moments = real_histories(data, recommender, users)
    else:
        draw, targets = np.random.default_rng(2), None
        histories = [random_history(draw, RANDOM_LENGTH, recommender) for _ in range(users)]
        moments = [int(history.times[-1]) + ASK_AFTER_S for history in histories]  # type: ignore[call-overload]
    rows = []
    for precision in ("bf16", "int8"):
        rows.append(compact(recommender, precision, histories, targets, moments, updates))  # type: ignore[arg-type]
        _show(rows[-1])
    return rows


def headlines(
    timed: list[dict[str, Any]], sizes: list[dict[str, Any]], compared: list[dict[str, Any]], device: str
) -> list[dict[str, Any]]:
    """Return the figures: sizes and batches of int8 states, one event of full ones, and the worst row of parity."""
    worst = max(row["max_score_error"] for row in compared if row["kind"] == "float32")
    if device != "cpu":
        each = timed[2]["event_ms_per_user"]
        found = {
            "state.event_ms_per_user_gpu": (each, "ms", f"an event of each of {BATCH:,} users, int8"),
            "state.max_score_error_gpu": (worst, "logit", "every option, float32, one pass over the history"),
        }
    else:
        found = {
            "state.kib_per_user": (sizes[1]["kib_per_user"], "KiB", "int8"),
            "state.max_score_error": (worst, "logit", "every option, float32, one pass over the history"),
            "state.event_ms_cpu": (
                timed[1]["event_ms"],
                "ms",
                f"one event alone on a core, full states as `serve` keeps them; int8: {timed[0]['event_ms']:.2f} ms",
            ),
        }
    return [headline(name, value, unit, GOALS[name], peer) for name, (value, unit, peer) in found.items()]


def _show(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
