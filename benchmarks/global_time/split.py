"""The split of Time to Split on ML-1M, compared with its published counts and rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.divide import Events
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol

PUBLISHED = {
    "train_rows": 899_650,
    "train_users": 6_011,
    "train_items": 3_412,
    "cut_s": 978_132_488,
    "later_users": 1_209,
    "later_events": 99_961,
    "fit_rows": 809_685,
    "fit_users": 5_453,
    "valid_cut_s": 975_962_083,
    "valid_users": 1_046,
    "test_cold_targets": 6,
}
"""ML-1M, quantile .9, validation by time, last target."""


def check_split(data: Path, protocol: Protocol, published: dict[str, int]) -> dict[str, Any]:
    """Compare the division with published counts and with the published rules in pandas, event by event.

    Returns:
        `facts` of the plan; `counts_wrong`, those that differ; `rows_wrong`, events that are in another part.
    """
    plan = make_plan(protocol, data)
    mine, theirs = _own_parts(data, plan), published_parts(data, protocol)
    wrong = {part: len(mine[part] ^ theirs[part]) for part in theirs}
    counts = {name: plan.facts[name] for name in published if plan.facts[name] != published[name]}
    return {
        "facts": plan.facts,
        "counts_wrong": counts,
        "parts_wrong": wrong,
        "rows_wrong": sum(wrong.values())
        + sum(abs(found - published[name]) for name, found in counts.items()),
    }


def _own_parts(data: Path, plan: Plan) -> dict[str, set[tuple[int, int]]]:
    """Return (user, item) of each part; ML-1M holds no pair twice."""
    parts: dict[str, set[tuple[int, int]]] = {"fit": set(), "valid": set(), "test": set()}
    assert plan.items_I is not None
    source_V = np.concatenate([[0], plan.items_I])
    for shard in _shards(data):
        division = plan.divide(shard)
        known = Events.of(division.histories)
        place_E = np.arange(len(known.items_E)) - np.repeat(known.offsets_U1[:-1], known.counts_U)
        fit_E = place_E < np.repeat(division.fit_U, known.counts_U)
        pairs = zip(known.user_E[fit_E].tolist(), source_V[known.items_E[fit_E]].tolist(), strict=True)
        parts["fit"].update(pairs)
        for name, targets in (("valid", division.valid), ("test", division.test)):
            users_N = known.users_U[targets.row_N].tolist()
            parts[name].update(zip(users_N, targets.source_N.tolist(), strict=True))
    return parts


def published_parts(data: Path, protocol: Protocol) -> dict[str, set[tuple[int, int]]]:
    """Apply the published rules with pandas: 5-core, no immediate repeats, a stable sort, quantiles of all rows."""
    shards = [Events.of(shard) for shard in _shards(data)]
    frame = pd.concat(
        pd.DataFrame({"user": e.user_E, "item": e.items_E, "time": e.times_E}) for e in shards
    ).reset_index(drop=True)
    while True:
        counts = (
            frame.groupby("user")["item"].transform("size"),
            frame.groupby("item")["user"].transform("size"),
        )
        enough = (counts[0] >= protocol.k_core) & (counts[1] >= protocol.k_core)
        if enough.all():
            break
        frame = frame[enough]
    frame = frame.sort_values(["user", "time"], kind="stable")
    frame = frame[(frame["item"] != frame.groupby("user")["item"].shift()).to_numpy()]
    train, test, _ = _published_cut(frame, float(protocol.cut or 0))
    fit, valid, _ = _published_cut(train, protocol.validation_quantile)
    last = [part.groupby("user").tail(1) for part in (valid, test)]
    parts = dict(zip(("fit", "valid", "test"), (fit, *last), strict=True))
    return {name: set(zip(p["user"].tolist(), p["item"].tolist(), strict=True)) for name, p in parts.items()}


def _shards(data: Path) -> Iterator[pa.Table]:
    folder = PreparedFolder.open(data)
    yield from (folder.read_shard(number) for number in range(len(folder.manifest.shards)))


def _published_cut(frame: pd.DataFrame, quantile: float) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Return events up to the quantile of users whose second event is by then, and users whose last one is later."""
    cut = frame["time"].quantile(quantile)
    times = frame.groupby("user")["time"]
    second, last = times.apply(lambda t: t.iloc[1] if len(t) > 1 else np.inf), times.last()
    early = frame["user"].isin(second[second <= cut].index) & (frame["time"] <= cut)
    return frame[early], frame[frame["user"].isin(last[last > cut].index)], cut
