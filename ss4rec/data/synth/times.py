"""Lengths and times of generated users, as a settings has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.synth.settings import SynthSettings

MIN_LENGTH = 20
"""Fewest ratings of a user, as in MovieLens."""
BREAK_S = 600
"""A gap this long ends a visit, and the other successors apply."""
Array = npt.NDArray[Any]


def draw_lengths(
    users: int, mean_len: int, most: int, settings: SynthSettings, rng: np.random.Generator
) -> Array:
    """Draw MIN_LENGTH plus a log-normal number of events for each user, `most` at most."""
    sigma = settings.length_sigma
    extra_U = np.exp(sigma * rng.standard_normal(users) - sigma**2 / 2) * (mean_len - MIN_LENGTH)
    return np.asarray(np.minimum(MIN_LENGTH + np.rint(extra_U), most).astype(np.int64))


def draw_gaps(settings: SynthSettings, lengths_U: Array, rng: np.random.Generator) -> Array:
    """Draw the seconds before each event."""
    total = int(lengths_U.sum())
    share_G, shortest_G, longest_G = (
        np.array(column, float) for column in zip(*settings.gap_kinds, strict=True)
    )
    cumulative_G = np.cumsum(share_G) / share_G.sum()
    draw_T = rng.random(total)
    if settings.returning < 1:
        # Who never comes back draws from the shorter kinds alone, and the others from all, more often from the longer.
        near = float(cumulative_G[shortest_G < settings.away_s][-1])
        comes_U = rng.random(len(lengths_U)) < settings.returning
        comes_T = np.repeat(comes_U, lengths_U)
        far = min((1 - near) * total / max(int(lengths_U[comes_U].sum()), 1), 0.5)
        stretched_T = np.where(
            draw_T < 1 - far, draw_T * near / (1 - far), near + (draw_T - (1 - far)) * (1 - near) / far
        )
        draw_T = np.where(comes_T, stretched_T, draw_T * near)
    kind_T = np.searchsorted(cumulative_G[:-1], draw_T, side="right")
    low_T, high_T = np.maximum(shortest_G, 1)[kind_T], np.maximum(longest_G, 1)[kind_T]
    gaps_T = low_T * (high_T / low_T) ** rng.random(total)
    if settings.pace_events is not None:
        pace_T = np.repeat(np.minimum(1.0, settings.pace_events / lengths_U), lengths_U)
        gaps_T = np.where(gaps_T >= BREAK_S, np.maximum(gaps_T * pace_T, BREAK_S), gaps_T)
    return np.where(longest_G[kind_T] == 0, 0, np.rint(gaps_T)).astype(np.int64)


def draw_starts(settings: SynthSettings, users: int, rng: np.random.Generator) -> Array:
    """Draw the second of each user's first event, counted from the settings's first."""
    share_Y1 = np.concatenate([[0], np.cumsum(settings.years)]) / sum(settings.years)
    edges_Y1 = np.linspace(0, 1, len(share_Y1))
    return (np.interp(rng.random(users), share_Y1, edges_Y1) * settings.span_s).astype(np.int64)


def fit(gaps_T: Array, lengths_U: Array, room_U: Array) -> Array:
    """Shrink the breaks of users whose events would end too late; no break becomes shorter than BREAK_S."""
    ends_U = np.cumsum(lengths_U)
    total_U = np.add.reduceat(gaps_T, ends_U - lengths_U)
    # The tenth is for breaks that cannot shrink any more.
    scale_T = np.repeat(np.minimum(1.0, 0.9 * np.maximum(room_U, 0) / np.maximum(total_U, 1)), lengths_U)
    breaks_T = gaps_T >= BREAK_S
    return np.where(breaks_T, np.maximum(gaps_T * scale_T, BREAK_S), gaps_T).astype(np.int64)
