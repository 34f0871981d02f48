"""What one event and one list cost, alone or in batches."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.states.models import random_history
from benchmarks.states.parity import TOP
from ss4rec.states import Event, StateModel

WARM = 5
"""Rounds that are not counted."""


def event_ms(states: StateModel, users: int, rounds: int, length: int = 165) -> dict[str, Any]:
    """Return the time of one event of each of some users, and of a list for each, on the device of the model.

    Args:
        states: the model.
        users: who have an event at the same time.
        rounds: repeats; the middle one counts.
        length: events of each history before; ML-1M's mean.
    """
    draw = np.random.default_rng(1)
    histories = [random_history(draw, length, states.recommender) for _ in range(min(users, 16))]
    kept = states.encode_many(histories)
    kept = [kept[number % len(kept)] for number in range(users)]
    cpu, wall, lists = [], [], []
    for number in range(rounds + WARM):
        item = states.recommender.item_ids[number % len(states.recommender.item_ids)]
        events = [[Event(item, state.newest.time_s + 60, 4.0)] for state in kept]
        began, began_cpu = time.perf_counter(), time.process_time()
        kept = states.update_many(kept, events)
        _wait(states)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        began = time.perf_counter()
        states.recommend_many(kept, None, TOP)
        lists.append(time.perf_counter() - began)
    middle = {
        name: 1e3 * statistics.median(times[WARM:])
        for name, times in (("wall", wall), ("cpu", cpu), ("list", lists))
    }
    return {
        "what": f"an event of each of {users:,} users",
        "users": users,
        "device": str(states.device),
        "precision": states.precision,
        "event_ms": round(middle["wall"], 4),
        "event_cpu_ms": round(middle["cpu"], 4),
        "slowest_of_a_hundred_ms": round(1e3 * float(np.percentile(wall[WARM:], 99)), 4),
        "list_ms": round(middle["list"], 4),
        "event_ms_per_user": round(middle["wall"] / users, 5),
        "list_ms_per_user": round(middle["list"] / users, 5),
    }


def _wait(states: StateModel) -> None:
    if states.device.type == "cuda":
        torch.cuda.synchronize()
