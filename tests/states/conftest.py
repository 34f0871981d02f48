"""Small models with every part awake, random histories, and the scores of encoding a history as a whole."""

import numpy as np
import torch

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.batch import Histories
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.model.habits import Asked
from ss4rec.model.item_features import ItemCodes
from ss4rec.model.last_state import encode_all, events_of
from ss4rec.model.ss4rec import make_model
from ss4rec.recommender import History, Recommender

ITEMS = 90
SMALL = {"dim": 16, "time_states": 6, "relation_states": 5, "init_std": 0.3, "time_step_min": 0.01}


def recommender_of(kind=torch.float64, target_time=True, seed=0, max_len=4000, **config) -> Recommender:
    """Return a model whose parameters are all away from zero, also those that start there."""
    torch.manual_seed(seed)
    columns = config.pop("columns", None)
    model = make_model(ModelConfig(**(SMALL | config)), ITEMS, target_time, columns)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for member in model.members:
            member.embedding.weight[0] = 0
    model.set_item_attributes((torch.rand(ITEMS + 1, 64) < 0.05).float())
    if columns is not None and columns.items is not None:
        per_item = columns.items.pairs // ITEMS
        offsets = torch.cat([torch.zeros(1), per_item * torch.arange(ITEMS + 1)]).int()
        codes = torch.randint(0, columns.items.rows, (columns.items.pairs,)).int()
        weights, vectors = torch.rand(len(codes)), torch.randn(ITEMS + 1, columns.items.dims)
        model.set_item_features(ItemCodes(columns.items, offsets, codes, weights, vectors), ITEMS - 9)
    data = DataConfig(max_len=max_len, overlap=2, target_time=target_time)
    ids = [f"i{number:03}" for number in range(1, ITEMS + 1)]
    return Recommender(
        model.to(kind).eval(), data, 5400.5, ids, [None] * ITEMS, profile_values=("sex=F", "sex=M", "age=25")
    )


def random_history(rng: np.random.Generator, length: int, with_context: bool = False) -> History:
    """Return a history with bursts, ties, gaps of months, ratings that miss, and items that come again."""
    gaps = rng.choice([0, 1, 40, 3_000, 90_000, 20_000_000], length) * rng.integers(1, 4, length)
    times = 1_000_000_000 + np.cumsum(gaps)
    items = [f"i{number:03}" for number in rng.integers(1, ITEMS + 1, length)]
    ratings = rng.choice([np.nan, 0.5, 3.0, 4.5, 5.0], length)
    profile = {"sex": "F", "age": 25} if rng.random() < 0.5 else {"sex": "M"}
    context = {"device": rng.choice(["phone", "web", "watch", ""], length).tolist()} if with_context else None
    return History(items, times.tolist(), None, ratings.tolist(), profile, context)


def whole(recommender: Recommender, history: History, at: int | None) -> np.ndarray:
    """Return the scores after one pass over the whole history, `[V - 1]`: the reference."""
    model, target_time = recommender.model, recommender.data.target_time
    times = np.array(history.times, np.int64)
    last_gap = recommender.unknown_gap_s if at is None else at - times[-1]
    between = np.diff(times).astype(np.float32)
    gaps = np.append(between, np.float32(last_gap)) if target_time else np.append(np.float32(0), between)
    asked_s = times[-1] + round(float(gaps[-1]))
    hours = (np.append(times[1:], asked_s) if target_time else times) // HOUR_S
    values = [f"{name}={value}" for name, value in (history.profile or {}).items()]
    codes = [list(recommender.profile_values).index(value) + 1 for value in values] or [0]
    items = torch.tensor([recommender.index[item] for item in history.items])
    offsets = torch.tensor([0, len(items)])
    batch = Histories(
        items_T=items,
        gaps_T=torch.from_numpy(gaps),
        hours_T=torch.from_numpy(hours),
        ratings_T=torch.tensor(history.ratings, dtype=torch.float32),
        profiles_TF=torch.cat(
            [torch.tensor(codes).repeat(len(items), 1), torch.from_numpy(recommender.context_codes(history))],
            dim=1,
        ),
        offsets_S1=offsets,
        seen_X=items,
        seen_offsets_S1=offsets,
    )
    elapsed = torch.full((len(items),), -1.0 if at is None else float(at - times[-1]))
    with torch.no_grad():
        hidden = encode_all(model, batch, "cpu", elapsed)[-1:]
        asked = Asked.after(events_of(batch))
        return model.scores(hidden, batch.seen_X, offsets, asked).matrix()[0, 1:].numpy()
