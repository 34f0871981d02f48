"""How far signals of items move when items come into fashion and grow old, so that the test can allow for it.

What an item is (its release year, its genres) is the same for all users. When one film comes into fashion, every user
sees it more, and the genres, ages and stars of what is seen move with it; permuting users cannot show that. In 10 of
12 archives in which nothing changed but which items were in fashion, the report called the ages of the items news.

So items are drawn as well as users. Item v gains the share d_v of the events. Had other items the same gains, the
histogram would move by the sum of d_v (a_v - a), where a_v is what the item is and a the mean of all; its variance is
the sum of d_v^2 (a_v - a)(a_v - a)'. A taste for one genre moves many items in one way and stands far above it; a few
films in fashion do not. The part of d_v^2 that comes from counting users is taken out: permutations show it.

Items also grow older. What the clock alone does to the ages of the reference's items is the offset: under the null it
is there as well, so that neither a catalogue that stands still nor one that renews itself is news.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drift.calendar import Window
from drift.signals.definitions import AGE_EDGES_Y, EPOCH_YEAR, YEAR_S, Signal, decade_bin
from drift.signals.items import ItemCounts, ItemFacts
from drift.stats.bin_noise import BinNoise, root
from drift.stats.distances import Array, named_slices

MOMENTS = (0.125, 0.375, 0.625, 0.875)
"""Parts of a window at which its items' ages are taken."""
AGING = "item_age"


def item_noise(
    counts: ItemCounts,
    facts: ItemFacts,
    windows: Sequence[Window],
    layout: Sequence[Signal],
    ref: Sequence[int],
    cur: int,
    stars_V: Array | None = None,
) -> list[BinNoise]:
    """Return the noise of each signal that says what items are, when window `cur` is compared with `ref`.

    Args:
        counts: events by item and window.
        facts: what items are.
        windows: the calendar.
        layout: the signals.
        ref: windows of the reference.
        cur: the other window.
        stars_V: mean stars of each item, NaN where they say nothing.
    """
    parts = named_slices(layout)
    events_V = counts.counts_WV[[*ref, cur]].sum(axis=0)
    items = np.flatnonzero(events_V)
    before_X, after_X = counts.counts_WV[list(ref)][:, items].sum(axis=0), counts.counts_WV[cur, items]
    if not before_X.sum() or not after_X.sum():
        return []
    found = []
    known = profiles(facts, items, windows[cur])
    if stars_V is not None:
        known["rating"] = _stars(stars_V[items])
    for name, bins_XB in known.items():
        if name not in parts:
            continue
        spread_BB = _covariance(before_X, after_X, bins_XB)
        offset_B = _offset(counts, facts, windows, ref, items, bins_XB) if name == AGING else None
        found.append(BinNoise(parts[name], root(spread_BB), offset_B))
    return found


def profiles(facts: ItemFacts, items: NDArray[np.int64], window: Window) -> dict[str, Array]:
    """Return what each item adds to the histogram of each signal that items decide: `[items, bins]`."""
    years_X = facts.years_V[items]
    return {
        AGING: _ages(years_X, window),
        "decade": np.eye(12)[decade_bin(years_X)],
        "genre": facts.genres_VG[items].astype(float),
        "no_genre": np.eye(2)[facts.bare_V[items].astype(np.int64)],
        **{feature.signal.name: feature.bins_VB[items].astype(float) for feature in facts.features},
    }


def _ages(years_X: NDArray[np.int64], window: Window) -> Array:
    """Return the `[items, bins]` shares of a window that items spend in each bin of `item_age`."""
    moments_M = window.start_s + np.array(MOMENTS) * (window.end_s - window.start_s)
    age_MX = EPOCH_YEAR + moments_M[:, None] / YEAR_S - years_X
    bin_MX = np.where(years_X == 0, 0, 1 + np.searchsorted(AGE_EDGES_Y, age_MX, side="right"))
    return np.asarray(np.eye(len(AGE_EDGES_Y) + 2)[bin_MX].mean(axis=0))


def _stars(mean_X: Array) -> Array:
    """Return histograms of ratings with these means: the mean lies between its two nearest bins."""
    if np.isnan(mean_X).all():
        return np.full((len(mean_X), 10), 0.1)
    place_X = np.clip(np.where(np.isnan(mean_X), np.nanmean(mean_X), mean_X) * 2 - 1, 0, 9)
    return np.asarray(np.maximum(0.0, 1 - np.abs(place_X[:, None] - np.arange(10))))


def _covariance(before_X: NDArray[np.int64], after_X: NDArray[np.int64], bins_XB: Array) -> Array:
    """Return the covariance that items in fashion give to the difference of two histograms."""
    weight_X = bins_XB.sum(axis=1)
    bins_XB = bins_XB / np.maximum(weight_X, 1e-12)[:, None]
    sides = [side * weight_X for side in (before_X, after_X)]
    before_S, after_S = (side / max(float(side.sum()), 1e-12) for side in sides)
    gain_X = after_S - before_S
    counted = float((before_S / max(sides[0].sum(), 1)).sum() + (after_S / max(sides[1].sum(), 1)).sum())
    share = max(0.0, 1.0 - counted / max(float((gain_X**2).sum()), 1e-300))
    apart_XB = bins_XB - (before_S + after_S) @ bins_XB / 2
    moved_XB = gain_X[:, None] * apart_XB
    return np.asarray(share * moved_XB.T @ moved_XB)


def _offset(
    counts: ItemCounts,
    facts: ItemFacts,
    windows: Sequence[Window],
    ref: Sequence[int],
    items: NDArray[np.int64],
    bins_XB: Array,
) -> Array:
    """Return what the clock alone does to the ages of the reference's items."""
    moved_B = np.zeros(bins_XB.shape[1])
    for window in ref:
        was_XB = _ages(facts.years_V[items], windows[window])
        moved_B += counts.counts_WV[window, items] @ (bins_XB - was_XB)
    return np.asarray(moved_B / counts.counts_WV[list(ref)][:, items].sum())
