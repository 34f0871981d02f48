"""States of users: their size, how far they are from encoding the whole history, and what one event costs.

    python -m benchmarks.states --run runs/ml-1m --data data/ml-1m --out benchmarks/results
    python -m benchmarks.states --preset ml_1m_best            # random weights: sizes, times, parity

Parity is over random histories of 1 to 2,000 events, begun anywhere and continued event by event; the reference is one
pass of the model over the whole history. Compact states are compared with full ones after as many updates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import headline, write_record
from ss4rec.config import DataConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.model.habits import Asked, Events
from ss4rec.model.inputs import Context
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import make_model
from ss4rec.presets import preset
from ss4rec.recommender import History, Recommender, load
from ss4rec.states import Event, State, StateModel
from ss4rec.states.packed import Precision

HOUR_S = 3600
ASK_AFTER_S = 600
TOP = 10
GOALS = {"state.kib_per_user": 40.0, "state.max_score_error": 1e-4, "state.event_ms_cpu": 3.0}


def random_history(recommender: Recommender, draw: np.random.Generator, length: int) -> History:
    """Return a history with bursts, ties and gaps of months."""
    chances = [0.2, 0.2, 0.25, 0.2, 0.14, 0.01]  # 2,000 events end long before a time may look like a date
    gaps = draw.choice([0, 1, 30, 2_000, 90_000, 9_000_000], length, p=chances) * draw.integers(1, 4, length)
    times = (1_000_000_000 + np.cumsum(gaps)).tolist()
    ids = recommender.item_ids
    items = [ids[number] for number in draw.integers(0, len(ids), length)]
    return History(items, times, None, draw.integers(1, 6, length).astype(float).tolist())


def whole(recommender: Recommender, history: History, device: str) -> torch.Tensor:
    """Return the scores after one pass over the whole history."""
    model, told = recommender.model, recommender.data.target_time
    times = np.array(history.times, np.int64)
    asked_s = int(times[-1]) + ASK_AFTER_S
    between = np.diff(times).astype(np.float32)
    gaps = np.append(between, np.float32(ASK_AFTER_S)) if told else np.append(np.float32(0), between)
    hours = (np.append(times[1:], asked_s) if told else times) // HOUR_S
    items = torch.tensor([recommender.index[item] for item in history.items], device=device)
    elapsed = torch.full((len(items),), float(ASK_AFTER_S), device=device)
    context = Context(
        torch.from_numpy(hours).to(device),
        torch.tensor(history.ratings, dtype=torch.float32, device=device),
        torch.zeros(len(items), 1, dtype=torch.int64, device=device),
        elapsed,
    )
    events = Events(items, torch.from_numpy(gaps).to(device), Segments.from_lengths([len(items)], device))
    with torch.no_grad():
        hidden = model.encode(events.items_T, events.gaps_T, events.segments, context)[-1:]
        offsets = torch.tensor([0, len(items)])
        return model.scores(hidden, items, offsets, Asked.after(events)).matrix()[0, 1:]


def parity(states: StateModel, histories: int, longest: int, updates: int) -> dict[str, Any]:
    """Compare states that were updated with the whole history."""
    draw, recommender = np.random.default_rng(0), states.recommender
    worst, same = 0.0, 0
    for _ in range(histories):
        length = round(longest ** draw.random())
        history = random_history(recommender, draw, length)
        begun = max(1, length - int(draw.integers(0, updates + 1)))
        state = continued(states, history, begun)
        asked = [history.times[-1] + ASK_AFTER_S]
        found = states.scores([state], asked).matrix()[0, 1:]
        wanted = whole(recommender, history, str(states.device))
        worst = max(worst, float((found - wanted).abs().max()))
        same += found.topk(TOP).indices.tolist() == wanted.topk(TOP).indices.tolist()
    return {"histories": histories, "longest": longest, "max_score_error": worst, "same_top_10": same}


def continued(states: StateModel, history: History, begun: int) -> State:
    """Return the state of a history that is encoded up to some event and then updated."""
    assert history.ratings is not None
    first = History(history.items[:begun], history.times[:begun], None, history.ratings[:begun])
    rest = zip(history.items[begun:], history.times[begun:], history.ratings[begun:], strict=True)
    state = states.encode(first)
    for event in rest:
        state = state.update(Event(*event))
    return state


def real_histories(data: Path, users: int) -> list[History]:
    """Return the whole histories of the first users of a prepared folder."""
    folder = PreparedFolder.open(data)
    ids = folder.items["source_id"].to_pylist()
    rows = folder.read_shard(0).slice(0, users).to_pylist()
    return [
        History([ids[item - 1] for item in row["items"]], row["timestamps"], None, row["ratings"])
        for row in rows
    ]


def compact(recommender: Recommender, precision: Precision, histories: list[History]) -> dict[str, Any]:
    """Return size and loss of compact states; half of each history is taken in event by event."""
    exact, packed = StateModel(recommender), StateModel(recommender, precision)
    sizes, errors, shared = [], [], []
    for history in histories:
        begun = max(1, len(history.items) // 2)
        states = [continued(model, history, begun) for model in (exact, packed)]
        asked = [history.times[-1] + ASK_AFTER_S]
        wanted, found = (
            model.scores([state], asked).matrix()[0, 1:]
            for model, state in zip((exact, packed), states, strict=True)
        )
        sizes.append(states[1].nbytes / 1024)
        errors.append(float((found - wanted).abs().max() / wanted.std()))
        shared.append(
            len(set(found.topk(TOP).indices.tolist()) & set(wanted.topk(TOP).indices.tolist())) / TOP
        )
    return {
        "precision": precision,
        "users": len(histories),
        "kib_per_user": round(statistics.mean(sizes), 2),
        "max_error_in_deviations": round(max(errors), 5),
        "mean_error_in_deviations": round(statistics.mean(errors), 5),
        "shared_of_top_10": round(statistics.mean(shared), 4),
    }


def event_ms(states: StateModel, users: int, rounds: int) -> dict[str, Any]:
    """Return the time of one event of each user, and of a list, on the device of the model."""
    draw = np.random.default_rng(1)
    histories = [random_history(states.recommender, draw, 100) for _ in range(min(users, 16))]
    kept = states.encode_many(histories)
    kept = [kept[number % len(kept)] for number in range(users)]
    cpu, wall, lists = [], [], []
    for _ in range(rounds + 5):
        events = [[Event(states.recommender.item_ids[0], state.newest.time_s + 60, 4.0)] for state in kept]
        began, began_cpu = time.perf_counter(), time.process_time()
        kept = states.update_many(kept, events)
        if states.device.type == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        began = time.perf_counter()
        states.recommend_many(kept, None, TOP)
        lists.append(time.perf_counter() - began)
    middle = {
        name: 1e3 * statistics.median(times[5:])
        for name, times in (("wall", wall), ("cpu", cpu), ("list", lists))
    }
    return {
        "users": users,
        "device": str(states.device),
        "precision": states.precision,
        "event_ms": round(middle["wall"], 4),
        "event_cpu_ms": round(middle["cpu"], 4),
        "list_ms": round(middle["list"], 4),
        "event_ms_per_user": round(middle["wall"] / users, 5),
    }


def random_recommender(name: str, items: int, device: str) -> Recommender:
    """Return a preset's model with random weights of some size, so that every part counts."""
    torch.manual_seed(0)
    config = preset(name)
    model = make_model(config.model, items, config.data.target_time)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    data = DataConfig(max_len=config.data.max_len, overlap=0, target_time=config.data.target_time)
    return Recommender(model.to(device).eval(), data, 60.0, list(range(1, items + 1)), [None] * items)


def main() -> None:
    """Measure, print, and write a record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, help="a trained run; without one --preset with random weights")
    parser.add_argument("--data", type=Path, help="its prepared folder, for the loss of compact states")
    parser.add_argument("--preset", default="ml_1m_best")
    parser.add_argument("--items", type=int, default=3416)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=2000)
    parser.add_argument("--updates", type=int, default=40, help="most events that are taken in one by one")
    parser.add_argument("--users", type=int, default=100, help="users for the loss of compact states")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, help="folder of the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recommender = (
        load(options.run, options.device)
        if options.run
        else random_recommender(options.preset, options.items, options.device)
    )
    full, small = (StateModel(recommender, kind, traced=True) for kind in ("full", "int8"))
    rows: list[dict[str, Any]] = [parity(full, options.histories, options.longest, options.updates)]
    draw = np.random.default_rng(2)
    histories = (
        real_histories(options.data, options.users)
        if options.data
        else [random_history(recommender, draw, 165) for _ in range(options.users)]
    )
    rows += [compact(recommender, precision, histories) for precision in ("full", "bf16", "int8")]
    rows += [event_ms(full, 1, options.rounds), event_ms(small, 1, options.rounds)]
    rows.append(event_ms(full, 1024, max(5, options.rounds // 20)))
    print(json.dumps(rows, indent=2))
    figures = {
        "state.kib_per_user": (rows[3]["kib_per_user"], "KiB"),
        "state.max_score_error": (rows[0]["max_score_error"], "logit"),
        "state.event_ms_cpu": (rows[4]["event_ms"], "ms"),
    }
    if options.out:
        headlines = [headline(name, value, unit, GOALS[name]) for name, (value, unit) in figures.items()]
        print(write_record("states", rows, headlines, options.out))


if __name__ == "__main__":
    main()
