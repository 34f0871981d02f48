"""Models of every option with all parameters awake, random histories, and the scores of encoding them whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.batch import Histories
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.data.prepared.user_profiles import profile_codes
from ss4rec.model.columns import DataColumns, EventColumn, ItemColumns
from ss4rec.model.habits import Asked
from ss4rec.model.item_features import ItemCodes
from ss4rec.model.last_state import encode_all, events_of
from ss4rec.model.ss4rec import SequenceModel, make_model
from ss4rec.presets import preset
from ss4rec.recommender import History, Recommender

ITEMS = 90
SMALL: dict[str, Any] = {
    "dim": 16, "time_states": 6, "relation_states": 5, "init_std": 0.3, "time_step_min": 0.01
}  # fmt: skip
PROFILE_VALUES = ("sex=F", "sex=M", "age=25")
MEDIAN_GAP_S = 5400.5
TOKENS = 1 << 13
"""Events that one reference pass takes together."""
ALL_INPUTS = ("rating", "gap", "clock", "date", "profile")
OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "ml_1m_cpu": {"gap_map": "log", "dt_init": "mamba", "shared_norm": False, "repeats": "learned"},
    "ml_1m_best": {
        "gap_map": "log", "blocks": 3, "feed_forward": 2.0, "shared_norm": False, "repeats": "learned",
        "inputs": ("rating", "gap", "clock", "date"), "item_attributes": True,
    },
    "production": {"norm": "pre", "feed_forward": 2.0, "shared_norm": False, "gap_map": "log"},
    "habits": {"repeats": "habits", "inputs": ("gap", "clock")},
    "cosine": {"cosine_temperature": 0.07, "conv_width": 1, "expand": 1},
    "horizon": {"horizon": True, "gap_map": "log", "conv_width": 8},
    "ensemble": {
        "members": 3, "repeats": "habits", "inputs": ALL_INPUTS, "item_attributes": True, "horizon": True
    },
    "columns": {
        "repeats": "learned", "inputs": ("gap",), "columns": DataColumns(
            items=ItemColumns(names=("brand", "picture"), rows=6, pairs=2 * ITEMS, dims=3),
            users=("sex",), user_codes=(1, 2),
            context=(EventColumn(name="device", first=0, values=("phone", "web")),),
        ),
    },
}  # fmt: skip
"""Every option of `ModelConfig` that changes what is computed outside training."""


def recommender_of(
    kind: torch.dtype = torch.float64,
    target_time: bool = True,
    seed: int = 0,
    max_len: int = 4000,
    device: str = "cpu",
    **config: Any,
) -> Recommender:
    """Return a small model whose parameters are all away from zero, also those that start there."""
    torch.manual_seed(seed)
    columns = config.pop("columns", None)
    model = make_model(ModelConfig(**(SMALL | config)), ITEMS, target_time, columns)
    _wake(model, 0.1)
    model.set_item_attributes((torch.rand(ITEMS + 1, 64) < 0.05).float())
    if columns is not None and columns.items is not None:
        per_item = columns.items.pairs // ITEMS
        offsets = torch.cat([torch.zeros(1), per_item * torch.arange(ITEMS + 1)]).int()
        codes = torch.randint(0, columns.items.rows, (columns.items.pairs,)).int()
        weights, vectors = torch.rand(len(codes)), torch.randn(ITEMS + 1, columns.items.dims)
        model.set_item_features(ItemCodes(columns.items, offsets, codes, weights, vectors), ITEMS - 9)
    data = DataConfig(max_len=max_len, overlap=2, target_time=target_time)
    ids = [f"i{number:03}" for number in range(1, ITEMS + 1)]
    placed = model.to(device=device, dtype=kind).eval()
    return Recommender(placed, data, MEDIAN_GAP_S, ids, [None] * ITEMS, profile_values=PROFILE_VALUES)


def preset_recommender(name: str, items: int, device: str) -> Recommender:
    """Return a preset's model with random weights of some size, so that every part counts."""
    torch.manual_seed(0)
    config = preset(name)
    model = make_model(config.model, items, config.data.target_time)
    _wake(model, 0.02)
    data = DataConfig(max_len=config.data.max_len, overlap=0, target_time=config.data.target_time)
    return Recommender(model.to(device).eval(), data, 60.0, list(range(1, items + 1)), [None] * items)


def _wake(model: SequenceModel, size: float) -> None:
    """Move every parameter away from where it starts; padding stays zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn_like(parameter)
        for member in model.members:
            member.embedding.weight[0] = 0


def random_history(draw: np.random.Generator, length: int, recommender: Recommender) -> History:
    """Return a history with bursts, ties, gaps of months, ratings that miss, and items that come again.

    Profile and context are what the model reads, with values that it does not know among them.
    """
    chances = [0.2, 0.2, 0.25, 0.2, 0.14, 0.01]  # 2,000 events end long before a time may look like a date
    gaps = draw.choice([0, 1, 40, 3_000, 90_000, 9_000_000], length, p=chances) * draw.integers(1, 4, length)
    times = 1_000_000_000 + np.cumsum(gaps)
    ids = recommender.item_ids
    items = [ids[number] for number in draw.integers(0, len(ids), length)]
    ratings = draw.choice([np.nan, 0.5, 3.0, 4.5, 5.0], length)
    profile = _profile(recommender.profile_values or (), whole=draw.random() < 0.5)
    context = {
        column.name: draw.choice([*(column.values or ("1.5", "-2")), "unknown", ""], length).tolist()
        for column in recommender.model.columns.context
    }
    return History(items, times.tolist(), None, ratings.tolist(), profile or None, context)


def _profile(values: Sequence[str], *, whole: bool) -> dict[str, object]:
    """Return the first value of each column of profiles, or of the first column alone the last one."""
    columns: dict[str, list[object]] = {}
    for name, _, value in (text.partition("=") for text in values):
        columns.setdefault(name, []).append(value)
    if whole:
        return {name: own[0] for name, own in columns.items()}
    return {name: own[-1] for name, own in [*columns.items()][:1]}


def whole(recommender: Recommender, histories: Sequence[History], asked: Sequence[int | None]) -> Tensor:
    """Return the scores after one pass over each whole history, `[S, V - 1]` on the host: the reference.

    Args:
        recommender: the model.
        histories: in the order of time, items that the model knows.
        asked: moment for which each asks; None: the median training gap after the newest event.
    """
    found: list[Tensor | None] = [None] * len(histories)
    order = sorted(range(len(histories)), key=lambda place: len(histories[place].items))
    edges, tokens = [0], 0
    for number, place in enumerate(order):
        tokens += len(histories[place].items)
        if tokens > TOKENS and number > edges[-1]:
            edges.append(number)
            tokens = len(histories[place].items)
    for first, stop in pairwise([*edges, len(order)]):
        places = order[first:stop]
        part = _whole(recommender, [histories[p] for p in places], [asked[p] for p in places])
        for place, scores in zip(places, part, strict=True):
            found[place] = scores
    return torch.stack([scores for scores in found if scores is not None])


def _whole(recommender: Recommender, histories: Sequence[History], asked: Sequence[int | None]) -> Tensor:
    """Return the scores of histories that one pass takes together."""
    told, device = recommender.data.target_time, recommender.device
    gaps, hours, profiles, elapsed = [], [], [], []
    columns = max(len(_codes(recommender, history)) for history in histories)
    for history, at in zip(histories, asked, strict=True):
        times = np.array(history.times, np.int64)
        last_gap = recommender.unknown_gap_s if at is None else at - times[-1]
        between = np.diff(times).astype(np.float32)
        gaps.append(np.append(between, np.float32(last_gap)) if told else np.append(np.float32(0), between))
        asked_s = times[-1] + round(float(gaps[-1][-1]))
        hours.append((np.append(times[1:], asked_s) if told else times) // HOUR_S)
        codes = _codes(recommender, history)
        own = np.tile([*codes, *[0] * (columns - len(codes))], (len(times), 1))
        profiles.append(np.concatenate([own, recommender.context_codes(history)], axis=1))
        elapsed.append(np.full(len(times), -1.0 if at is None else float(at - times[-1]), np.float32))
    items = torch.tensor([recommender.index[item] for history in histories for item in history.items])
    offsets = torch.tensor([0, *(len(history.items) for history in histories)]).cumsum(0)
    ratings = np.concatenate([np.asarray(history.ratings, np.float32) for history in histories])
    batch = Histories(
        items_T=items,
        gaps_T=torch.from_numpy(np.concatenate(gaps)),
        hours_T=torch.from_numpy(np.concatenate(hours)),
        ratings_T=torch.from_numpy(ratings),
        profiles_TF=torch.from_numpy(np.concatenate(profiles)),
        offsets_S1=offsets,
        seen_X=items,
        seen_offsets_S1=offsets,
    )
    with torch.no_grad():
        elapsed_T = torch.from_numpy(np.concatenate(elapsed)).to(device)
        hidden_SD = encode_all(recommender.model, batch, device, elapsed_T)[(offsets[1:] - 1).to(device)]
        known = Asked.after(events_of(batch, device))
        return recommender.model.scores(hidden_SD, batch.seen_X, offsets, known).matrix()[:, 1:].cpu()


def _codes(recommender: Recommender, history: History) -> list[int]:
    return profile_codes(history.profile or {}, recommender.profile_values) or [0]
