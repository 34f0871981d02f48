"""From a prepared folder and a protocol to the facts of an audit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ss4rec.data.audit.divided import tally
from ss4rec.data.audit.facts import Facts, Head, IntArray, Lengths, Sizes, Times
from ss4rec.data.audit.reach import reach
from ss4rec.data.audit.scan import DayCounts, Scan
from ss4rec.data.audit.volume import next_day, volume
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol

GAP_BOUNDS_S = (1, 10, 60, 600, 3_600, 86_400, 7 * 86_400, 30 * 86_400)
GAP_WORDS = (
    "0 s",
    "to 10 s",
    "to 1 min",
    "to 10 min",
    "to 1 h",
    "to 1 day",
    "to 1 week",
    "to 30 days",
    "more",
)
RARE_EVENTS = 5
CURVE_POINTS = 40


def measure(
    folder: PreparedFolder,
    protocol: Protocol,
    users: int,
    progress: Callable[[str], None] = lambda message: None,
) -> Facts:
    """Read the folder and count.

    Args:
        folder: what to look at.
        protocol: how it would be divided.
        users: users that simple scorers rank.
        progress: is told what is being done.

    Raises:
        DataError: if a shard is missing or damaged, or the protocol does not fit the data.
    """
    progress("reading events")
    scan = Scan.of(folder)
    progress("counting what is new each day")
    by_day = DayCounts.of(scan)
    progress(f"dividing by {protocol.name}")
    plan = make_plan(protocol, folder)
    division = tally(scan, plan)
    times = _times(scan)
    progress(f"ranking {users:,} users with simple scorers")
    return Facts(
        name=folder.manifest.name,
        item_columns=tuple(feature.name for feature in (folder.manifest.features or {}).get("items", ())),
        sizes=_sizes(folder),
        lengths=_lengths(folder.users["count"].to_numpy().astype(np.int64)),
        times=times,
        ties=scan.ties(),
        repeats=scan.repeats,
        copies=scan.copies(),
        volume=volume(scan.events_D, scan.first_day),
        next_day=next_day(scan.events_D, by_day, scan.first_day),
        head=_head(folder.items["count"].to_numpy()),
        division=division,
        reach=reach(folder, plan, times.zero_share, users),
    )


def _sizes(folder: PreparedFolder) -> Sizes:
    manifest = folder.manifest
    users, items, events = manifest.users, manifest.items, manifest.interactions
    return Sizes(
        users=users,
        items=items,
        events=events,
        rows_read=manifest.source.rows,
        rows_dropped=manifest.source.rows - events,
        density=events / (users * items),
        events_an_item=events / items,
        events_a_user=events / users,
    )


def _lengths(counts_U: IntArray) -> Lengths:
    p10, median, p90, p99 = (float(q) for q in np.quantile(counts_U, (0.1, 0.5, 0.9, 0.99)))
    power_U = np.floor(np.log2(counts_U)).astype(np.int64)
    powers = np.bincount(power_U)
    least = int(power_U.min())
    return Lengths(
        p10=p10,
        median=median,
        p90=p90,
        p99=p99,
        most=int(counts_U.max()),
        longest_share=float(counts_U.max() / counts_U.sum()),
        histogram=tuple((2**power, int(powers[power])) for power in range(least, len(powers))),
    )


def _times(scan: Scan) -> Times:
    """Return the facts on times."""
    manifest, gaps = scan.folder.manifest, scan.gaps
    low = [int(part.sum()) for part in np.split(gaps.low_B, [b for b in GAP_BOUNDS_S if b < len(gaps.low_B)])]
    # Larger gaps are kept by their upper 16 bits: 18 hours, so a day and more is told to that.
    high = np.zeros(len(GAP_BOUNDS_S) + 1, np.int64)
    for bucket, size in gaps.high.items():
        high[np.searchsorted(GAP_BOUNDS_S, bucket << 16, side="right")] += size
    high[: len(low)] += low
    return Times(
        first_s=manifest.first_time_s,
        last_s=manifest.last_time_s,
        step_s=scan.step_s,
        gaps=gaps.total,
        median_gap_s=manifest.median_gap_s,
        zero_share=gaps.zero / max(1, gaps.total),
        histogram=tuple(zip(GAP_WORDS, high.tolist(), strict=True)),
    )


def _head(counts_I: IntArray) -> Head:
    falling_I = np.sort(counts_I)[::-1].astype(np.float64)
    share_I1 = np.concatenate([[0.0], np.cumsum(falling_I) / falling_I.sum()])
    items = len(counts_I)
    points = np.unique(np.geomspace(1, items, CURVE_POINTS).astype(np.int64))
    place_I = np.arange(items, 0, -1)
    return Head(
        top_1=float(share_I1[-(-items // 100)]),
        top_10=float(share_I1[-(-items // 10)]),
        gini=float(((2 * place_I - items - 1) * falling_I).sum() / (items * falling_I.sum())),
        rare_items=float((counts_I < RARE_EVENTS).mean()),
        curve=tuple((float(point / items), float(share_I1[point])) for point in points),
    )
