"""Tests that hold when rows come in clusters: whole users are permuted, flipped or resampled, never rows.

A *block* is everything one user did on one side (reference or current): the sum of its per-window histograms, each
normalised so that a window counts once, and the number of windows behind that sum. All resampling is one matrix
product of a label matrix `[B, users]` with the blocks `[users, K]`, so a test costs the same for 10^5 or 10^9 rows.

Shapes: `B` permutations, `N` users, `K` bins, `S` signals, `W` windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drift.stats.distances import Array, Binned, distances, mean_histograms, mean_shift

CHUNK = 512
"""Permutations whose label matrix is in memory at one time."""


@dataclass(frozen=True)
class Blocks:
    """One side of a comparison: one row a user, users in ascending order."""

    users_N: NDArray[np.int64]
    """User keys, rising."""
    sums_NK: Array
    """Sum over the user's windows of normalised histograms."""
    weights_NS: Array
    """Windows in which the user has the signal (0 where it has none)."""

    def take(self, users: NDArray[np.int64]) -> Blocks:
        """Return the blocks of `users`, all of which must be present."""
        at = np.searchsorted(self.users_N, users)
        return Blocks(users, self.sums_NK[at], self.weights_NS[at])

    def mean(self, signals: Sequence[Binned]) -> Array:
        """Return the `[K]` mean histogram."""
        sums_K, weights_S = (side.sum(axis=0, dtype=np.float64) for side in (self.sums_NK, self.weights_NS))
        return mean_histograms(sums_K, weights_S, signals)


@dataclass(frozen=True)
class Tested:
    """Outcome of one comparison for all signals."""

    effect_S: Array
    """Observed distance."""
    shift_S: Array
    """Signed shift of the mean, current minus reference."""
    p_S: Array
    """Permutation p of each signal alone."""
    p_max_S: Array
    """p of each signal adjusted for all signals (max-T)."""
    p_floor: float
    """Smallest p that this number of permutations can give."""
    square_S: Array
    """Mean square of the distances under the null."""


@dataclass(frozen=True)
class Excess:
    """What squared distances have beyond the null of drawn users, as estimated from windows of the past."""

    square_S: Array
    """Mean of each signal, at least 0."""
    pairs: int
    """Pairs of windows from which it was estimated; the fewer, the less sure."""

    def widened(self, null_BS: Array, rng: np.random.Generator) -> Array:
        """Return draws of the null with the excess in them.

        Its size is known from few pairs alone, so it is drawn anew each time: with nothing else in the null, that makes
        its tails those of Student's t.
        """
        with np.errstate(over="ignore"):
            usual_S = (null_BS**2).mean(axis=0)
        share_S = np.divide(self.square_S, usual_S, out=np.zeros_like(usual_S), where=usual_S > 1e-15)
        unsure_BS = self.pairs / rng.chisquare(self.pairs, null_BS.shape)
        return np.asarray(null_BS * np.sqrt(1.0 + share_S * unsure_BS))


class Noise(Protocol):
    """Error of the bins themselves, which all users share, so that no permutation of users shows it."""

    @property
    def part(self) -> slice:
        """The columns it touches."""

    @property
    def offset_B(self) -> Array | None:
        """A difference that is there without any news: the null has it, an interval has not."""

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Return `[count, columns]` draws of the difference that it makes between two mean histograms."""


def permutation_test(
    ref: Blocks,
    cur: Blocks,
    signals: Sequence[Binned],
    permutations: int,
    rng: np.random.Generator,
    noises: Sequence[Noise] = (),
    excess: Excess | None = None,
) -> Tested:
    """Test whether two windows' users come from one population, by permuting whole users.

    Users on one side exchange their labels; users on both sides exchange their two blocks with probability 1/2, which
    keeps their correlation out of the null. `noises` are added to each draw, and what is left is widened where sides
    are no mirror images of each other (`_widen`). `excess` is what the past had beyond that. Statistics and p: `max_t`.
    """
    both = np.intersect1d(ref.users_N, cur.users_N)
    alone = [side.take(np.setdiff1d(side.users_N, both)) for side in (ref, cur)]
    single_NC = np.concatenate([_columns(side) for side in alone])
    is_cur_N = np.repeat(np.array([0, 1], np.float32), [len(side.users_N) for side in alone])
    ref_both_NC, cur_both_NC = (_columns(side.take(both)) for side in (ref, cur))
    swap_NC = (ref_both_NC - cur_both_NC).astype(np.float32)
    # float32 products of what is left after the mean: where a few users alone differ from the rest, labellings tie,
    # and sums of 1,000 nearly equal numbers round by more than those users matter. A tie lost is a p too small.
    mean_C = single_NC.mean(axis=0, dtype=np.float64) if len(single_NC) else np.zeros(single_NC.shape[1])
    centred_NC = (single_NC - mean_C).astype(np.float32)
    fixed_C = cur_both_NC.sum(axis=0, dtype=np.float64) + mean_C * is_cur_N.sum()
    total_C = sum(part.sum(axis=0, dtype=np.float64) for part in (single_NC, ref_both_NC, cur_both_NC))
    widen_K = _widen(alone, (ref_both_NC, cur_both_NC), signals)

    def draw(count: int) -> Array:
        labels_BN = rng.permuted(np.broadcast_to(is_cur_N, (count, len(is_cur_N))), axis=1)
        swaps_BN = rng.integers(0, 2, (count, len(both))).astype(np.float32)
        cur_BC = fixed_C + labels_BN @ centred_NC + swaps_BN @ swap_NC
        return _pair_distances(total_C - cur_BC, cur_BC, signals, noises, rng, True, widen_K)

    null_BS = _in_chunks(draw, permutations)
    return _tested(ref, cur, signals, null_BS if excess is None else excess.widened(null_BS, rng))


def sign_flip_test(
    ref: Blocks,
    cur: Blocks,
    signals: Sequence[Binned],
    flips: int,
    rng: np.random.Generator,
    noises: Sequence[Noise] = (),
) -> Tested:
    """Test whether users who are on both sides changed: each user's difference is flipped with probability 1/2.

    Only users that have a signal on both sides count for it, each once.
    """
    users = np.intersect1d(ref.users_N, cur.users_N)
    ref_own, cur_own = (_own_means(side.take(users), signals) for side in (ref, cur))
    present_NS = (ref_own.weights_NS > 0) & (cur_own.weights_NS > 0)
    ref_own, cur_own = (_masked(side, present_NS, signals) for side in (ref_own, cur_own))
    difference_NK = (cur_own.sums_NK - ref_own.sums_NK).astype(np.float32)
    total_K = (cur_own.sums_NK + ref_own.sums_NK).sum(axis=0)
    weights_S = present_NS.sum(axis=0).astype(np.float64)

    def draw(count: int) -> Array:
        signs_BN = (2 * rng.integers(0, 2, (count, len(users))) - 1).astype(np.float32)
        gap_BK = (signs_BN @ difference_NK).astype(np.float64)
        weights_BS = np.broadcast_to(weights_S, (count, len(weights_S)))
        back_BK, here_BK = (
            mean_histograms((total_K + sign * gap_BK) / 2, weights_BS, signals) for sign in (-1, 1)
        )
        return distances(back_BK, _noisy(here_BK, noises, rng, null=True), signals)

    return _tested(ref_own, cur_own, signals, _in_chunks(draw, flips))


def max_t(observed_S: Array, null_BS: Array) -> tuple[Array, Array]:
    """Return raw p and max-T adjusted p (Westfall & Young 1993) of each signal, both `(1 + b) / (1 + B)`.

    Statistics are standardised by mean and deviation over permutations *and* the observation, so that the observed
    labelling is one of B + 1 exchangeable ones. A signal that never varies gets p = 1.
    """
    all_BS = np.concatenate([observed_S[None], null_BS])
    spread_S = all_BS.std(axis=0)
    # float32 products: what differs by rounding only is a tie, and a tie counts against the alarm.
    constant_S = spread_S <= 1e-6 * np.maximum(np.abs(all_BS).max(axis=0), 1e-6)
    z_BS = np.where(constant_S, 0.0, (all_BS - all_BS.mean(axis=0)) / np.where(constant_S, 1.0, spread_S))
    reach_BS = z_BS[1:] + 1e-4
    return at_least(z_BS[0], reach_BS), at_least(z_BS[0], reach_BS.max(axis=1, keepdims=True))


def at_least(observed_S: Array, null_BS: Array) -> Array:
    """Return the permutation p `(1 + #{null >= observed}) / (1 + B)`; without the ones it could be 0 (Phipson 2010)."""
    return np.asarray((1 + (null_BS >= observed_S).sum(axis=0)) / (1 + len(null_BS)))


def holm(p_WS: Array, planned: int = 0) -> Array:
    """Adjust max-T p of windows for the number of windows (Holm 1979), window by window.

    Windows are ordered by their smallest p; the r-th of m gets the factor m - r + 1, and none ends below a window
    before it. NaN (a cell that failed or was not run) keeps its place and counts as no window. With `planned` windows,
    those still to come count as p = 1, which makes the result valid at every look before them.
    """
    smallest_W = np.min(np.where(np.isnan(p_WS), np.inf, p_WS), axis=1)
    order = [w for w in np.argsort(smallest_W, kind="stable") if np.isfinite(smallest_W[w])]
    count = max(len(order), planned)
    adjusted_WS = np.full_like(p_WS, np.nan)
    floor = 0.0
    for rank, w in enumerate(order):
        adjusted_WS[w] = np.minimum(1.0, np.maximum(floor, p_WS[w] * (count - rank)))
        floor = float(np.nanmin(adjusted_WS[w]))
    return adjusted_WS


def bootstrap_intervals(
    ref: Blocks,
    cur: Blocks,
    signals: Sequence[Binned],
    draws: int,
    level: float,
    rng: np.random.Generator,
    noises: Sequence[Noise] = (),
) -> tuple[Array, Array]:
    """Return lower and upper ends of user-bootstrap intervals of the effects (basic bootstrap, not below 0).

    A user keeps one Poisson(1) weight on both sides. The basic interval mirrors the draws at the estimate, which takes
    out most of the upward bias that every distance has.
    """
    users = np.union1d(ref.users_N, cur.users_N)
    sides = [(np.searchsorted(users, side.users_N), _columns(side).astype(np.float32)) for side in (ref, cur)]

    def draw(count: int) -> Array:
        weights_BN = rng.poisson(1.0, (count, len(users))).astype(np.float32)
        ref_BC, cur_BC = (weights_BN[:, at] @ columns for at, columns in sides)
        return _pair_distances(ref_BC, cur_BC, signals, noises, rng)

    draws_BS = _in_chunks(draw, draws)
    effect_S = distances(ref.mean(signals), cur.mean(signals), signals)
    low_S, high_S = np.quantile(draws_BS, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.maximum(2 * effect_S - high_S, 0.0), np.maximum(2 * effect_S - low_S, 0.0)


def drop_test(ref_N: Array, cur_M: Array, permutations: int, rng: np.random.Generator) -> float:
    """Return the one-sided permutation p that the mean of `cur_M` (one value a user) is below that of `ref_N`.

    The drop is divided by its error (Janssen 1997): a mean over 20 targets of a user scatters far less than one target
    of a user of the reference, and a permutation that mixes both takes the larger spread for each.
    """
    pooled = np.concatenate([ref_N, cur_M])
    values_N2 = np.stack([pooled, pooled**2], axis=1)
    total_2 = values_N2.sum(axis=0)

    def drop(cur_B2: Array) -> Array:
        cur_sum, rest = cur_B2[..., 0], total_2[0]
        gap = (rest - cur_sum) / len(ref_N) - cur_sum / len(cur_M)
        ref_B2 = (total_2 - cur_B2) / len(ref_N)
        own_B2 = cur_B2 / len(cur_M)
        spreads = [np.maximum(side[..., 1] - side[..., 0] ** 2, 0.0) for side in (ref_B2, own_B2)]
        return np.asarray(gap / np.sqrt(spreads[0] / len(ref_N) + spreads[1] / len(cur_M) + 1e-15))

    def draw(count: int) -> Array:
        picked_BN = rng.permuted(
            np.broadcast_to(np.arange(len(pooled)) >= len(ref_N), (count, len(pooled))), axis=1
        )
        return drop(picked_BN @ values_N2)[:, None]

    null_B1 = _in_chunks(draw, permutations) + 1e-9
    cur_2 = values_N2[len(ref_N) :].sum(axis=0)
    return float(at_least(drop(cur_2)[None], null_B1)[0])


def paired_test(differences_N: Array, flips: int, rng: np.random.Generator) -> float:
    """Return the one-sided p that the mean of one difference per user is above 0, by flipping their signs."""
    observed = np.array([differences_N.mean()])

    def draw(count: int) -> Array:
        signs_BN = 2 * rng.integers(0, 2, (count, len(differences_N))) - 1
        return (signs_BN @ differences_N / len(differences_N))[:, None]

    return float(at_least(observed, _in_chunks(draw, flips) + 1e-12)[0])


def _columns(side: Blocks) -> Array:
    """Histogram sums and weights side by side, so that one product gives both."""
    return np.concatenate([side.sums_NK, side.weights_NS], axis=1)


def _pair_distances(
    ref_BC: Array,
    cur_BC: Array,
    signals: Sequence[Binned],
    noises: Sequence[Noise],
    rng: np.random.Generator,
    null: bool = False,
    widen_K: Array | None = None,
) -> Array:
    """Distances between summed blocks (histograms and weights side by side)."""
    bins = ref_BC.shape[1] - len(signals)
    ref_BK, cur_BK = (mean_histograms(side[:, :bins], side[:, bins:], signals) for side in (ref_BC, cur_BC))
    if widen_K is not None:
        cur_BK = ref_BK + widen_K * (cur_BK - ref_BK)
    return distances(ref_BK, _noisy(cur_BK, noises, rng, null), signals)


def _widen(alone: Sequence[Blocks], both_NC: tuple[Array, Array], signals: Sequence[Binned]) -> Array | None:
    """Return the `[K]` factors by which permuted differences are too small; None if they are not.

    With four windows against one, users of the reference have up to four windows behind a block, those of the window
    one, and who is in both counts more on one side. Such blocks are not quite exchangeable: a permuted side holds more
    windows than the real one and scatters less (12 instead of 5 of 100 p were below .05 in data without news). So the
    spread of each signal is brought up to that of users as clusters, the sum of squares of what each adds to the
    difference.
    """
    alone_NC = [_columns(side) for side in alone]
    if not len(both_NC[0]) and all((side.weights_NS <= 1).all() for side in alone):
        return None
    sizes = [signal.size for signal in signals]
    bins = sum(sizes)
    total_C = sum(part.sum(axis=0, dtype=np.float64) for part in (*alone_NC, *both_NC))
    mean_K = mean_histograms(total_C[None, :bins], total_C[None, bins:], signals)[0]

    def apart(part_NC: Array) -> Array:
        """Return each user's sum less what the mean of all would give."""
        return np.asarray(part_NC[:, :bins] - np.repeat(part_NC[:, bins:], sizes, axis=1) * mean_K)

    (ref_NK, cur_NK), (ref_both_NK, cur_both_NK) = map(apart, alone_NC), map(apart, both_NC)
    weights_2S = [
        (side[:, bins:].sum(axis=0) + other[:, bins:].sum(axis=0))
        for side, other in zip(alone_NC, both_NC, strict=True)
    ]
    ref_1K, cur_1K = (1 / np.repeat(np.maximum(side, 1), sizes) for side in weights_2S)
    real_K = (ref_NK**2).sum(axis=0) * ref_1K**2 + (cur_NK**2).sum(axis=0) * cur_1K**2
    real_K += ((cur_both_NK * cur_1K - ref_both_NK * ref_1K) ** 2).sum(axis=0)
    # The same of permuted blocks, whose sides have the windows that they get on average.
    count = [len(side) for side in alone_NC]
    users = max(sum(count), 1)
    single_S = sum(side[:, bins:].sum(axis=0) for side in alone_NC)
    shared_S = sum(side[:, bins:].sum(axis=0) for side in both_NC) / 2
    scale_K = sum(1 / np.repeat(np.maximum(single_S * n / users + shared_S, 1), sizes) for n in count)
    drawn_K = ((ref_NK**2).sum(axis=0) + (cur_NK**2).sum(axis=0)) * count[0] * count[1] / users**2
    drawn_K = (drawn_K + ((cur_both_NK - ref_both_NK) ** 2).sum(axis=0) / 4) * scale_K**2
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    real_S, drawn_S = (np.add.reduceat(part_K, starts) for part_K in (real_K, drawn_K))
    ratio_S = np.divide(real_S, drawn_S, out=np.ones_like(real_S), where=drawn_S > 1e-15)
    return np.repeat(np.sqrt(np.maximum(ratio_S, 1.0)), sizes)


def _noisy(cur_BK: Array, noises: Sequence[Noise], rng: np.random.Generator, null: bool) -> Array:
    """Add the error of the bins in place, and under the null what is there without any news."""
    for noise in noises:
        cur_BK[:, noise.part] += noise.draw(len(cur_BK), rng)
        if null and noise.offset_B is not None:
            cur_BK[:, noise.part] += noise.offset_B
    return cur_BK


def _in_chunks(draw: Callable[[int], Array], total: int) -> Array:
    """Collect `total` draws, `CHUNK` at a time."""
    return np.concatenate([draw(min(CHUNK, total - start)) for start in range(0, total, CHUNK)])


def _tested(ref: Blocks, cur: Blocks, signals: Sequence[Binned], null_BS: Array) -> Tested:
    """Compare the observation with its null."""
    ref_K, cur_K = ref.mean(signals), cur.mean(signals)
    effect_S = distances(ref_K, cur_K, signals)
    p_S, p_max_S = max_t(effect_S, null_BS)
    with np.errstate(over="ignore"):  # a signal that nobody has is divided by nearly nothing
        square_S = (null_BS**2).mean(axis=0)
    return Tested(effect_S, mean_shift(ref_K, cur_K, signals), p_S, p_max_S, 1 / (1 + len(null_BS)), square_S)


def _own_means(side: Blocks, signals: Sequence[Binned]) -> Blocks:
    """Give every user one histogram of weight 1 a signal."""
    means_NK = mean_histograms(side.sums_NK, side.weights_NS, signals)
    return Blocks(side.users_N, means_NK, (side.weights_NS > 0).astype(np.float64))


def _masked(side: Blocks, present_NS: NDArray[np.bool_], signals: Sequence[Binned]) -> Blocks:
    """Empty the signals that a user lacks on the other side."""
    mask_NK = np.repeat(present_NS, [signal.size for signal in signals], axis=1)
    return Blocks(side.users_N, side.sums_NK * mask_NK, side.weights_NS * present_NS)
