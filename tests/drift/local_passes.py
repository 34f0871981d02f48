"""Both passes and the ranking without Ray: the same functions on the same shards, one after the other."""

from contextlib import nullcontext
from dataclasses import replace

import pyarrow as pa

from drift.cells.alibi import run_on_model
from drift.cells.run import run_cell
from drift.cells.wander import past_squares
from drift.model.followers import count_pairs
from drift.model.rank import rank_shard
from drift.signals.histograms import UserHistograms
from drift.signals.past import PastCounts
from ss4rec.data.prepared.tables import read_shard
from ss4rec.runs.load import load_model


def _add(parts):
    total, *rest = parts
    for part in rest:
        total = total + part
    return total


def _rank(shards, run, task, workers):
    model, _ = load_model(run, "cpu")
    found = [table for path in shards if (table := rank_shard(model, read_shard(path), task)) is not None]
    return pa.concat_tables(found) if found else None


def run_locally(monkeypatch):
    """Replace what Ray does in `drift.job.run_drift`."""
    passes = {
        "count_past": lambda shards, before, items, windows: _add(
            [PastCounts.of_shard(read_shard(path), before, items, windows) for path in shards]
        ),
        "hold_shards": lambda paths, events, items, columns: paths,
        "count_follow": lambda shards, size, cut, items: _add(
            [count_pairs(read_shard(p), size, cut) for p in shards]
        ),
        "make_histograms": lambda shards, make, items: UserHistograms.merge(
            [made for path in shards if len((made := make(read_shard(path))).user_R)]
        ),
        "hold_context": lambda context: context,
        "run_cells": lambda context, wander, cells, workers: [
            row for cell in cells for row in run_cell(replace(context, wander=wander), cell)
        ],
        "run_past": lambda context, pairs, workers: [past_squares(context, pair) for pair in pairs],
        "rank_windows": _rank,
        "run_alibi_on_model": run_on_model,
    }
    for name, function in passes.items():
        monkeypatch.setattr(f"drift.ray_passes.{name}", function)
    monkeypatch.setattr("drift.model.ray_quality.count_follow", passes["count_follow"])
    monkeypatch.setattr("drift.model.ray_quality.rank_windows", passes["rank_windows"])
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address: nullcontext())
