"""How far states are from encoding the whole history, over random histories and every option."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.states.models import OPTIONS, random_history, recommender_of, whole
from ss4rec.io.atomic import write_json
from ss4rec.recommender import History, Recommender
from ss4rec.states import Event, State, StateModel

TOP = 10
ASK_AFTER_S = 600
EXACT = 1e-9
"""Largest error in float64, as a share of the largest score."""


def parity(name: str, states: StateModel, histories: int, longest: int, updates: int) -> dict[str, Any]:
    """Compare states that were begun anywhere and updated with one pass over each whole history.

    Args:
        name: of the row.
        states: the model; float32 or float64.
        histories: how many; their lengths are even in the logarithm from 1 to `longest`.
        longest: events of the longest.
        updates: most events that are taken in one by one.
    """
    draw, recommender = np.random.default_rng(0), states.recommender
    lengths = np.maximum(1, np.round(longest ** draw.random(histories))).astype(int)
    lengths[: min(2, histories)] = (1, longest)[: min(2, histories)]
    known = [random_history(draw, int(length), recommender) for length in lengths]
    begun = [max(1, int(length) - int(draw.integers(0, updates + 1))) for length in lengths]
    asked = [
        None if number % 4 == 0 else int(history.times[-1]) + ASK_AFTER_S * number
        for number, history in enumerate(known)
    ]
    kept = continued(states, known, begun)
    wanted = whole(recommender, known, asked)
    found = torch.cat(
        [
            states.scores(kept[p : p + 256], asked[p : p + 256]).matrix()[:, 1:].cpu()
            for p in range(0, len(kept), 256)
        ]
    )
    if not bool(torch.isfinite(found).all() & torch.isfinite(wanted).all()):
        raise RuntimeError(f"{name}: a score is no number")
    error = float((found - wanted).abs().max())
    return {
        "what": name,
        "device": str(states.device),
        "kind": str(states.kind).removeprefix("torch."),
        "target_time": states.target_time,
        "histories": histories,
        "events": int(lengths.sum()),
        "longest": int(lengths.max()),
        "one_by_one": int(sum(int(length) - first for length, first in zip(lengths, begun, strict=True))),
        "max_score_error": error,
        "share_of_largest_score": error / float(wanted.abs().max()),
        "same_top_10": same_lists(found, wanted, error),
    }


def continued(states: StateModel, histories: Sequence[History], begun: Sequence[int]) -> list[State]:
    """Return the states of histories that are encoded up to some event each and then updated one by one."""
    pairs = list(zip(histories, begun, strict=True))
    first = states.encode_many([_part(history, 0, stop) for history, stop in pairs])
    return states.update_many(first, [events_of(history, stop) for history, stop in pairs])


def events_of(history: History, first: int, stop: int | None = None) -> list[Event]:
    """Return a part of a history as events."""
    part = _part(history, first, len(history.items) if stop is None else stop)
    assert part.ratings is not None
    context = part.context or {}
    told = [{name: values[place] for name, values in context.items()} for place in range(len(part.items))]
    return [Event(*event) for event in zip(part.items, part.times, part.ratings, told, strict=True)]


def _part(history: History, first: int, stop: int) -> History:
    assert history.ratings is not None
    context = {name: values[first:stop] for name, values in (history.context or {}).items()}
    return History(
        history.items[first:stop],
        history.times[first:stop],
        None,
        history.ratings[first:stop],
        history.profile,
        context,
    )


def same_lists(found: Tensor, wanted: Tensor, error: float) -> int:
    """Return for how many histories both have the same best items; two that the error cannot tell apart may change
    places."""
    k = min(TOP, wanted.shape[1])
    mine = wanted.gather(1, found.topk(k).indices)
    return int(((mine - wanted.topk(k).values).abs() <= 2 * error).all(1).sum())


def every_option(
    device: str,
    histories: int,
    longest: int,
    updates: int,
    exact: int,
    only: Sequence[str] = (),
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """Return a row for each set of options and both settings of the time to the next event.

    Args:
        device: where models run.
        histories: of each row in float32.
        longest: events of the longest history.
        updates: most events that are taken in one by one.
        exact: of each row in float64, which is computed on the CPU; it must agree to `EXACT`.
        only: names of sets of options; none: all.
        kept: folder in which rows are kept: what lies there is not measured again.

    Raises:
        RuntimeError: if float64 does not agree.
    """
    rows = []
    for name in only or OPTIONS:
        for target_time in (True, False):
            for kind, count, where in ((torch.float32, histories, device), (torch.float64, exact, "cpu")):
                if not count:
                    continue
                key = f"{name}-{target_time}-{kind}-{where}-{count}-{longest}-{updates}"
                row = once(
                    kept, key, partial(_option_row, name, target_time, kind, count, where, longest, updates)
                )
                print(
                    f"{name}, target_time {target_time}, {row['kind']}: error {row['max_score_error']:.2e}, "
                    f"{row['same_top_10']} of {count} lists the same",
                    flush=True,
                )
                if kind == torch.float64 and row["share_of_largest_score"] > EXACT:
                    raise RuntimeError(f"{name} in float64 is off by {row['share_of_largest_score']:.1e}")
                rows.append(row)
    return rows


def once(kept: Path | None, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a row that an earlier call has kept in the folder `kept`, or measure it and keep it there."""
    if kept is None:
        return measure()
    path = kept / f"{key}.json"
    if not path.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    row: dict[str, Any] = json.loads(path.read_text())
    return row


def _option_row(
    name: str, target_time: bool, kind: torch.dtype, histories: int, device: str, longest: int, updates: int
) -> dict[str, Any]:
    model: Recommender = recommender_of(kind, target_time, device=device, **OPTIONS[name])
    return parity(name, StateModel(model), histories, longest, updates)
