"""How often a fall of HR@10 by a quarter is found in a window of 300 users, with 20 targets a user and with one.

    python -m benchmarks.drift.power --source ml-1m.zip --work FOLDER --out benchmarks/results
    python -m benchmarks.drift.power --source ml-1m.zip --work FOLDER --runs 20          (a quick look; no record)

Real users, real ranks: ML-1M cut at 2000-11-20. What is ranked with is the table of what followed what before the cut,
since it needs no training and a quarter of few hits is harder to see than a quarter of a good model's. In each run 300 users
after the cut are drawn, every fourth of their hits becomes a miss, and they are tested as a report does it: against the
held-out events before the cut, adjusted for four windows. The fall is found if the verdict is `drift` or `severe`. The same
without the fall says how often that is a false alarm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from benchmarks.record import headline, write_record
from drift.calendar import Window
from drift.config import ALARMS, DriftConfig
from drift.model.followers import count_pairs
from drift.model.names import BEFORE_CUT, FOLLOW, MODEL, K
from drift.model.quality import HIT, UserMeans, summarise
from drift.model.rank import Baselines, RankTask, rank_shard
from drift.model.sample import REFERENCE_FACTOR
from drift.model.targets import TargetChoice, spread
from ss4rec.config import DataConfig
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import TIMELINE, SplitRecord, parse_cut, split
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.segments import Segments

CUTOFF = "2000-11-20"
USERS, WINDOWS, FALL = 300, 4, 0.25
RUNS = 200
WINDOW = 0


class Nothing:
    """A model that knows nothing: its ranks are replaced by those of what follows what."""

    def encode(
        self, items_T: torch.Tensor, gaps_T: torch.Tensor, segments: Segments, context: object = None
    ) -> torch.Tensor:
        """Return `[T, 1]` states."""
        return items_T[:, None].float()

    def scores(
        self,
        hidden_BD: torch.Tensor,
        seen_X: torch.Tensor,
        seen_offsets_B1: torch.Tensor,
        asked: object = None,
    ) -> ItemScores:
        """Return the same scores for all items."""
        return ItemScores.of_matrix(torch.zeros(len(hidden_BD), self.size), seen_X, seen_offsets_B1)

    def __init__(self, size: int) -> None:
        self.size = size


def ranked(source: Path, work: Path) -> tuple[pa.Table, int]:
    """Return the ranks of up to 20 targets a user after the cut and of one before it, and the number of items."""
    full, cut = work / "power-full", work / "power-cut"
    if not full.exists():
        prepare(source, full, k_core=0)
    if not cut.exists():
        split(full, cut, parse_cut(CUTOFF))
    record, timeline = SplitRecord.load(cut), PreparedFolder.open(cut / TIMELINE)
    shards = [read_shard(path) for path in timeline.shard_paths]
    manifest, size = timeline.manifest, record.vocabulary
    window = Window("after", record.cut_s + 1, manifest.last_time_s + 1)
    everyone = np.arange(manifest.users)
    choice = TargetChoice(DataConfig(max_len=50, overlap=5), [window], {BEFORE_CUT: everyone, WINDOW: everyone},
                          record.cut_s, size)  # fmt: skip
    pairs = [count_pairs(shard, size, record.cut_s) for shard in shards]
    follow: csr_matrix = sum(pairs[1:], pairs[0])
    counts_V = np.asarray(follow.sum(axis=0)).ravel().astype(np.int64)
    baselines = Baselines(counts_V, {WINDOW: counts_V, BEFORE_CUT: counts_V}, follow)
    parts = [
        rank_shard(Nothing(size + 1), shard, RankTask(choice, seed=0, baselines=baselines))
        for shard in shards
    ]
    table = pa.concat_tables([part for part in parts if part is not None])
    return table.set_column(table.schema.get_field_index(MODEL), MODEL, table[FOLLOW]), size


def run(ranks: pa.Table, size: int, seed: int, fall: float, per_user: int) -> dict[str, Any]:
    """Draw users, let them fall, and judge them as a report does."""
    rng = np.random.default_rng([seed, per_user])
    config = DriftConfig(seed=seed, planned_windows=WINDOWS, targets_per_user=per_user, bootstrap=2)
    inside, before = (ranks.filter(pc.equal(ranks["window"], window)) for window in (WINDOW, BEFORE_CUT))
    users = rng.choice(np.unique(inside["user"].to_numpy()), USERS, replace=False)
    inside = inside.filter(pc.is_in(inside["user"], value_set=pa.array(users)))
    inside = _few(inside, per_user)
    rank_X = inside[MODEL].to_numpy().copy()
    rank_X[(rng.random(len(rank_X)) < fall) & (rank_X <= K)] = size
    inside = inside.set_column(inside.schema.get_field_index(MODEL), MODEL, pa.array(rank_X))
    others = np.setdiff1d(np.unique(before["user"].to_numpy()), users)
    kept = rng.permutation(others)[: REFERENCE_FACTOR * config.quality_users]
    before = before.filter(pc.is_in(before["user"], value_set=pa.array(kept)))
    records, _ = summarise(pa.concat_tables([before, inside]), [(WINDOW, "after")], config, size)
    return {
        "found": records[0]["severity"] in ALARMS,
        "HR": records[0][HIT],
        "reference": records[0]["reference"],
        "could_be_found": records[0]["smallest_fall"],
    }


def _few(ranks: pa.Table, per_user: int) -> pa.Table:
    """Keep up to `per_user` targets of each user, evenly spread."""
    ranks = ranks.sort_by([("user", "ascending"), ("event_s", "ascending")])
    _, first, counts = np.unique(ranks["user"].to_numpy(), return_index=True, return_counts=True)
    kept = [start + spread(np.arange(count), per_user) for start, count in zip(first, counts, strict=True)]
    return ranks.take(np.concatenate(kept))


def without_trend(ranks: pa.Table) -> pa.Table:
    """Make the figure after the cut that of before it, so that nothing but the planted fall is there to find.

    The side with the higher HR@10 loses as many hits, drawn at random, as it has more.
    """
    sides = [
        UserMeans.of(ranks.filter(pc.equal(ranks["window"], w))).hits(MODEL).mean()
        for w in (BEFORE_CUT, WINDOW)
    ]
    higher, share = (
        (BEFORE_CUT, 1 - sides[1] / sides[0]) if sides[0] > sides[1] else (WINDOW, 1 - sides[0] / sides[1])
    )
    rank_X = ranks[MODEL].to_numpy().copy()
    lost_X = (
        (ranks["window"].to_numpy() == higher)
        & (rank_X <= K)
        & (np.random.default_rng(0).random(len(rank_X)) < share)
    )
    rank_X[lost_X] = np.inf
    return ranks.set_column(ranks.schema.get_field_index(MODEL), MODEL, pa.array(rank_X))


def main() -> None:
    """Rank once, draw many times, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the archive ml-1m")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is prepared")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, help="folder of records; needs the default runs")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        ranks, size = ranked(options.source, options.work)
        ranks = without_trend(ranks)
        rows = []
        for fall, targets in ((FALL, 20), (FALL, 1), (0.0, 20)):
            found = [run(ranks, size, seed, fall, targets) for seed in range(options.runs)]
            means = {name: round(float(np.mean([one[name] for one in found])), 4) for name in found[0]}
            rows.append({"fall": fall, "targets_per_user": targets, "runs": len(found), **means})
            print(rows[-1], flush=True)
    many, one, none = rows
    peer = f"at least; with one target a user {one['found']:.2f}; without a fall {none['found']:.3f} false alarms"
    figures = [headline("drift.power_quarter_fall_300", many["found"], "share", 0.9, peer)]
    print(json.dumps(figures, indent=1))
    if options.out and options.runs >= RUNS:
        print(write_record("drift-power", rows, figures, options.out))


if __name__ == "__main__":
    main()
