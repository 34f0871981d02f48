"""alibi-detect behind one adapter: one row a user, float64, no NaN, seeded, PyTorch; its verdicts stand beside ours.

Licence: alibi-detect 0.13 is under the Business Source License 1.1 (Seldon): non-production use only, until four years
after each release. Nothing of ours needs it; it is imported when a configuration names one of its detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drift.cells.compare import sides
from drift.cells.types import ALIBI, CONTROL, REFERENCE, Cell, CellContext, Row
from drift.config import DriftConfig
from drift.model.names import BEFORE_CUT
from drift.signals.definitions import Signal
from drift.stats.distances import slices
from drift.stats.resampling import Blocks

Rows = NDArray[np.float64]
INPUTS = "inputs"

PERMUTATIONS = 100
MIN_USERS = 10
"""Users a side below which no detector is run."""
CONTEXT_USERS = 150
"""ContextMMD inverts matrices for each permutation: minutes from 500 users on."""
CONTEXT = ("activity", "history", "tenure")
"""What ContextMMD takes as given: it asks whether tastes differ between equally active and equally old users."""
KERNEL_CENTRES = 20
"""Of LSDD. Its default, a 20th of the reference, leaves three centres of 67 users."""
ONLINE_WINDOW, ONLINE_BOOTSTRAPS = 20, 2000
ONLINE_USERS = 50
"""Users that an online detector is fed."""
ONLINE_RUN = 20.0 * ONLINE_USERS
"""Users until a false alarm, in the mean: so 5 % of windows without drift raise one."""


@dataclass(frozen=True)
class Sides:
    """What a detector sees: one row a user, columns brought to mean 0 and deviation 1 over both sides."""

    ref_ND: Rows
    cur_MD: Rows
    names: tuple[str, ...]
    """Signal of each column."""

    def pick(self, kept_D: NDArray[np.bool_]) -> Sides:
        """Return some of the columns."""
        names = tuple(name for name, kept in zip(self.names, kept_D, strict=True) if kept)
        return Sides(self.ref_ND[:, kept_D], self.cur_MD[:, kept_D], names)

    def of(self, signals: Sequence[str]) -> NDArray[np.bool_]:
        """Return which columns belong to these signals."""
        return np.isin(self.names, signals)

    def varied(self) -> Sides:
        """Leave out columns that the reference does not vary in: LSDD divides by its deviation plus 1e-12.

        With one such column (a genre that nobody had rated) its statistic is noise, or it refuses "repeat instances".
        """
        return self.pick(self.ref_ND.std(axis=0) > 0.05)

    def float32(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both sides as the PyTorch backend takes them."""
        return self.ref_ND.astype(np.float32), self.cur_MD.astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """What a detector said."""

    p: float
    """NaN from the online ones, which have none."""
    statistic: float
    """Its own; of the online ones the number of users until the alarm, NaN without one."""


def user_vectors(
    side: Blocks, layout: tuple[Signal, ...], left_out: Collection[str] = ("unseen_item",)
) -> tuple[Rows, NDArray[np.int64], tuple[str, ...]]:
    """Return one row per user: mean bin of each ordered signal, shares of the labels of the others; users; signals.

    `unseen_item` is left out: the vocabulary was made from the reference, so any detector would fire on it.
    Users who lack a signal are left out: KS with one NaN says "no drift", MMD with one says "drift".
    """
    kept = [s for s, signal in enumerate(layout) if signal.name not in left_out]
    complete_N = (side.weights_NS[:, kept] > 0).all(axis=1)
    columns, names = [], []
    parts = slices(layout)
    for s in kept:
        signal = layout[s]
        share_NB = (
            side.sums_NK[complete_N, parts[s]].astype(np.float64) / side.weights_NS[complete_N, s : s + 1]
        )
        columns.append(share_NB if signal.distance == "js" else (share_NB @ np.arange(signal.size))[:, None])
        names += [signal.name] * columns[-1].shape[1]
    return np.concatenate(columns, axis=1), side.users_N[complete_N], tuple(names)


def rare_signals(sides: Sequence[Blocks], layout: tuple[Signal, ...]) -> list[str]:
    """Return the signals that fewer than half of the users of a side have, and `unseen_item`."""
    common_S = np.all(
        [(side.weights_NS > 0).mean(axis=0) >= 0.5 for side in sides if len(side.users_N)], axis=0
    )
    return [
        "unseen_item",
        *(signal.name for signal, common in zip(layout, common_S, strict=True) if not common),
    ]


def run_detector(context: CellContext, cell: Cell) -> list[Row]:
    """Run one detector on a window's inputs; returns one row with its p and statistic, `too_few` without enough users.

    Users who are on both sides are left out of the reference, since every detector takes rows as independent.
    """
    rng = cell.rng(context.config.seed)
    seen = _sides(context, cell, rng)
    blank = Row(context.name(cell.window), cell.comparison, cell.detector, INPUTS)
    return [_detect(blank, seen, context.config.alpha, rng)]


def run_on_model(ranks: pa.Table, windows: Sequence[tuple[int, str]], config: DriftConfig) -> list[Row]:
    """Run the detectors on what the model made of each user: its last hidden state, and how sure its scores are.

    Args:
        ranks: what `drift.model.rank` returned; held-out events before the cut are the reference if there are enough.
        windows: number and name of each window.
        config: names the detectors.
    """
    wanted = ranks.filter(pc.is_valid(ranks["top10"]))
    parts = {
        window: wanted.filter(pc.equal(wanted["window"], window))
        for window in set(wanted["window"].to_pylist())
    }
    before = parts.get(BEFORE_CUT)
    first = windows[0][0]
    at = BEFORE_CUT if before is not None and before.num_rows >= MIN_USERS else first
    rows = []
    for space, columns in (("states", ("hidden",)), ("scores", ("top10_mass", "entropy"))):
        ref = _columns(parts[at], columns) if at in parts else np.zeros((0, 1))
        sides = [
            (REFERENCE, window, name) for window, name in windows[-config.alibi_windows :] if window != at
        ]
        for name, (comparison, window, words) in product(
            config.alibi, [*sides, (CONTROL, at, windows[0][1])]
        ):
            cell = Cell(comparison, window + 1, f"{ALIBI}{name}")
            rng = cell.rng(config.seed)
            if comparison == CONTROL:
                mixed = rng.permutation(ref)
                one, other = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
            else:
                one, other = ref, _columns(parts[window], columns) if window in parts else ref[:0]
            seen = _scaled(
                _sample(one, config.alibi_users, rng), _sample(other, config.alibi_users, rng), space
            )
            rows.append(_detect(Row(words, comparison, cell.detector, space), seen, config.alpha, rng))
    return rows


def _columns(table: pa.Table, names: Sequence[str]) -> Rows:
    """Return one row per user."""
    columns = [np.stack(table[name].to_pylist()).astype(np.float64) for name in names]
    return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)


def _detect(row: Row, seen: Sides, alpha: float, rng: np.random.Generator) -> Row:
    """Fill in what a detector says; whatever goes wrong is in the row."""
    import torch

    name = row.detector.removeprefix(ALIBI)
    row.n_users_ref, row.n_users_cur, row.effect_name = len(seen.ref_ND), len(seen.cur_MD), name
    if min(row.n_users_ref, row.n_users_cur) < MIN_USERS:
        return replace(row, status="too_few")
    np.random.seed(int(rng.integers(2**31)))
    torch.manual_seed(int(rng.integers(2**31)))
    try:
        answer = DETECTORS[name](seen)
    except Exception as error:
        return replace(row, status="error", error=f"{type(error).__name__}: {error}"[:500])
    # The online detectors have no p: one that raised an alarm says after how many users.
    flagged = not np.isnan(answer.statistic) if np.isnan(answer.p) else answer.p <= alpha
    return replace(row, effect=answer.statistic, p=answer.p, severity="noted" if flagged else "none")


def _sides(context: CellContext, cell: Cell, rng: np.random.Generator) -> Sides:
    """Return the users of a cell as rows, at most `alibi_users` a side."""
    ref, cur = sides(context, cell, rng)
    ref = ref.take(np.setdiff1d(ref.users_N, cur.users_N))
    left_out = rare_signals((ref, cur), context.layout)
    (all_ref, _, names), (all_cur, *_) = (user_vectors(side, context.layout, left_out) for side in (ref, cur))
    ref_ND, cur_MD = (_sample(rows, context.config.alibi_users, rng) for rows in (all_ref, all_cur))
    return _scaled(ref_ND, cur_MD, names)


def _scaled(ref_ND: Rows, cur_MD: Rows, names: tuple[str, ...] | str) -> Sides:
    """Bring columns to mean 0 and deviation 1; one name stands for all columns."""
    if isinstance(names, str):
        names = (names,) * ref_ND.shape[1]
    joined = np.concatenate([ref_ND, cur_MD])
    if not len(joined):
        return Sides(ref_ND, cur_MD, names)
    mean_D, scale_D = joined.mean(axis=0), joined.std(axis=0)
    scale_D[scale_D == 0] = 1.0
    return Sides((ref_ND - mean_D) / scale_D, (cur_MD - mean_D) / scale_D, names)


def _sample(rows: Rows, limit: int, rng: np.random.Generator) -> Rows:
    return rows[np.sort(rng.choice(len(rows), limit, replace=False))] if len(rows) > limit else rows


def _features(name: str, ref: NDArray[Any], cur: NDArray[Any], **options: Any) -> Answer:
    """Univariate detectors: the smallest p times the number of features (Bonferroni, as the library does).

    The library keeps p as float32, so that 0 only means less than its smallest number.
    """
    import alibi_detect.cd as cd

    found = getattr(cd, name)(ref, **options).predict(cur, return_p_val=True, return_distance=True)["data"]
    p_D = np.maximum(np.atleast_1d(found["p_val"]).astype(float), np.finfo(np.float32).smallest_subnormal)
    return Answer(min(1.0, float(p_D.min()) * len(p_D)), float(np.max(found["distance"])))


def _numbers(name: str, seen: Sides) -> Answer:
    """KS and Cramer-von Mises on each column; float64, since CVM on float32 is wrong for many rows."""
    return _features(name, seen.ref_ND, seen.cur_MD)


def _chi2(seen: Sides) -> Answer:
    """Chi-square on quartiles of the reference, since it takes categories."""
    edges_D = [np.unique(np.quantile(column, [0.25, 0.5, 0.75])) for column in seen.ref_ND.T]
    kept = [d for d, edges in enumerate(edges_D) if len(edges) > 1]
    ref, cur = (
        np.stack([np.searchsorted(edges_D[d], side[:, d]) for d in kept], axis=1)
        for side in (seen.ref_ND, seen.cur_MD)
    )
    return _features("ChiSquareDrift", ref, cur)


def _tabular(seen: Sides) -> Answer:
    """KS on the numbers and chi-square on each user's genre of genres: the one that is furthest above the mean."""
    genre_D = seen.of(["genre"])
    both = np.concatenate([seen.ref_ND, seen.cur_MD])
    # Numbered without gaps: a genre that is nobody's first makes the library's table of frequencies fail.
    present, first_N = np.unique(both[:, genre_D].argmax(axis=1), return_inverse=True)
    ref, cur = np.split(np.column_stack([first_N, both[:, ~genre_D]]), [len(seen.ref_ND)])
    return _features("TabularDrift", ref, cur, categories_per_feature={0: len(present)})


def _joint(name: str, seen: Sides, **options: Any) -> Answer:
    """Multivariate detectors."""
    import alibi_detect.cd as cd

    ref, cur = seen.float32()
    found = getattr(cd, name)(ref, backend="pytorch", device="cpu", **options).predict(cur)["data"]
    return Answer(_counted(found["p_val"], options.get("n_permutations")), float(found["distance"]))


def _counted(p: float, permutations: int | None) -> float:
    """Return `(1 + b) / (1 + B)`: the library's permutation p is b / B, which can be 0 and then is no p."""
    return float(p) if permutations is None else (1 + float(p) * permutations) / (1 + permutations)


def _lsdd(seen: Sides) -> Answer:
    centres = min(KERNEL_CENTRES, len(seen.ref_ND) // 3)
    return _joint("LSDDDrift", seen.varied(), n_permutations=PERMUTATIONS, n_kernel_centers=centres)


def _classifier(seen: Sides) -> Answer:
    import alibi_detect.cd as cd
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500)
    detector = cd.ClassifierDrift(seen.ref_ND, model, backend="sklearn", n_folds=3, seed=0)
    found = detector.predict(seen.cur_MD)["data"]
    return Answer(float(found["p_val"]), float(found["distance"]))


def _context(seen: Sides) -> Answer:
    """Whether tastes differ between users of the same activity, history and tenure."""
    import alibi_detect.cd as cd

    ref, cur = (side[:CONTEXT_USERS] for side in seen.float32())
    given_D = seen.of(CONTEXT)
    detector = cd.ContextMMDDrift(
        ref[:, ~given_D],
        ref[:, given_D],
        backend="pytorch",
        device="cpu",
        n_permutations=PERMUTATIONS,
        verbose=False,
    )
    found = detector.predict(cur[:, ~given_D], cur[:, given_D])["data"]
    return Answer(_counted(found["p_val"], PERMUTATIONS), float(found["distance"]))


def _online(name: str, seen: Sides) -> Answer:
    """Feed users one by one until the alarm. It has no p, only a run length that false alarms keep to in the mean."""
    import alibi_detect.cd as cd

    ref, cur = seen.varied().float32()
    # Its bootstrap needs twice the window in the reference, LSDD's centres (twice the window) left out.
    size = min(ONLINE_WINDOW, len(ref) // 6)
    detector = getattr(cd, name)(
        ref,
        ert=ONLINE_RUN,
        window_size=size,
        backend="pytorch",
        device="cpu",
        n_bootstraps=ONLINE_BOOTSTRAPS,
        verbose=False,
    )
    for number, row in enumerate(cur[:ONLINE_USERS], start=1):
        if detector.predict(row)["data"]["is_drift"]:
            return Answer(float("nan"), float(number))
    return Answer(float("nan"), float("nan"))


DETECTORS: dict[str, Callable[[Sides], Answer]] = {
    "ks": partial(_numbers, "KSDrift"),
    "cvm": partial(_numbers, "CVMDrift"),
    "tabular": _tabular,
    "chi2": _chi2,
    "mmd": partial(_joint, "MMDDrift", n_permutations=PERMUTATIONS),
    "lsdd": _lsdd,
    "classifier": _classifier,
    "spot_the_diff": partial(_joint, "SpotTheDiffDrift", epochs=10, seed=0),
    "context_mmd": _context,
    "mmd_online": partial(_online, "MMDDriftOnline"),
    "lsdd_online": partial(_online, "LSDDDriftOnline"),
}
