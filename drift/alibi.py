"""alibi-detect behind one adapter: one row a user, float64, no NaN, seeded, PyTorch; its verdicts stand beside ours.

Licence: alibi-detect 0.13 is under the Business Source License 1.1 (Seldon): non-production use only, until four years
after each release. Nothing of ours needs it; it is imported when a configuration names one of its detectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drift.cells import Cell, CellContext, Row, sides
from drift.distances import slices
from drift.signals import Signal
from drift.stats import Blocks

if TYPE_CHECKING:
    from collections.abc import Callable

ONLINE_WINDOW, ONLINE_RUN = 20, 1000.0
"""Users in an online detector's window, and users until a false alarm it is set to."""
CONTEXT_USERS = 150
"""ContextMMD inverts matrices for each permutation: minutes from 500 users on."""


def user_vectors(side: Blocks, layout: tuple[Signal, ...]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return one row a user: mean bin of each ordered signal, shares of the labels of the others; and the users.

    `unseen_item` is left out: it is 0 for every reference user by definition, so any detector would fire on it.
    Users who lack a signal are left out: KS with one NaN says "no drift", MMD with one says "drift".
    """
    complete_N = (side.weights_NS > 0).all(axis=1)
    columns = []
    for s, (signal, part) in enumerate(zip(layout, slices(layout), strict=True)):
        if signal.name == "unseen_item":
            continue
        share_NB = side.sums_NK[complete_N, part].astype(np.float64) / side.weights_NS[complete_N, s : s + 1]
        columns.append(share_NB if signal.distance == "js" else (share_NB @ np.arange(signal.size))[:, None])
    return np.concatenate(columns, axis=1), side.users_N[complete_N]


def run_detector(context: CellContext, cell: Cell) -> list[Row]:
    """Run one detector on a window; returns one row with its p and statistic.

    Users who are on both sides are left out of the reference, since every detector takes rows as independent.
    """
    import torch

    name = cell.detector.removeprefix("alibi:")
    rng = cell.rng(context.config.seed)
    ref, cur = sides(context, cell, rng)
    ref = ref.take(np.setdiff1d(ref.users_N, cur.users_N))
    pair = [
        _sample(user_vectors(side, context.layout)[0], context.config.alibi_users, rng) for side in (ref, cur)
    ]
    joined = np.concatenate(pair)
    scale_D = np.where(joined.std(axis=0) > 0, joined.std(axis=0), 1.0)
    ref_ND, cur_MD = ((side - joined.mean(axis=0)) / scale_D for side in pair)
    np.random.seed(int(rng.integers(2**31)))
    torch.manual_seed(int(rng.integers(2**31)))
    p, statistic = DETECTORS[name](ref_ND, cur_MD)
    return [
        Row(
            window=context.name(cell.window),
            comparison=cell.comparison,
            detector=cell.detector,
            signal="joint",
            n_users_ref=len(ref_ND),
            n_users_cur=len(cur_MD),
            effect=statistic,
            effect_name=name,
            p=p,
            severity="noted" if p <= context.config.alpha else "none",
        )
    ]


def _sample(rows: NDArray[np.float64], limit: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rows[np.sort(rng.choice(len(rows), limit, replace=False))] if len(rows) > limit else rows


def _features(name: str, ref: NDArray, cur: NDArray, **options: Any) -> tuple[float, float]:
    """Univariate detectors: the smallest p times the number of features (Bonferroni, as the library does).

    The library keeps p as float32, so that 0 only means less than its smallest number.
    """
    import alibi_detect.cd as cd

    found = getattr(cd, name)(ref, **options).predict(cur, return_p_val=True, return_distance=True)["data"]
    p_D = np.maximum(np.atleast_1d(found["p_val"]).astype(float), np.finfo(np.float32).smallest_subnormal)
    return min(1.0, float(p_D.min()) * len(p_D)), float(np.max(found["distance"]))


def _chi2(ref: NDArray, cur: NDArray) -> tuple[float, float]:
    """Chi-square on quartiles of the reference, since it takes categories."""
    edges_D = [np.unique(np.quantile(column, [0.25, 0.5, 0.75])) for column in ref.T]
    sides_ = [
        np.stack([np.searchsorted(e, c) for e, c in zip(edges_D, s.T, strict=True)], 1) for s in (ref, cur)
    ]
    kept = [d for d, edges in enumerate(edges_D) if len(edges) > 1]
    return _features("ChiSquareDrift", *(side[:, kept] for side in sides_))


def _joint(name: str, ref: NDArray, cur: NDArray, **options: Any) -> tuple[float, float]:
    """Multivariate detectors; float32 is what their PyTorch backend takes."""
    import alibi_detect.cd as cd

    detector = getattr(cd, name)(ref.astype(np.float32), backend="pytorch", device="cpu", **options)
    found = detector.predict(cur.astype(np.float32))["data"]
    return _counted(found["p_val"], options.get("n_permutations")), float(found["distance"])


def _counted(p: float, permutations: int | None) -> float:
    """Return `(1 + b) / (1 + B)`: the library's permutation p is b / B, which can be 0 and then is no p."""
    return float(p) if permutations is None else (1 + float(p) * permutations) / (1 + permutations)


def _classifier(ref: NDArray, cur: NDArray) -> tuple[float, float]:
    import alibi_detect.cd as cd
    from sklearn.linear_model import LogisticRegression

    detector = cd.ClassifierDrift(ref, LogisticRegression(max_iter=500), backend="sklearn", n_folds=3, seed=0)
    found = detector.predict(cur)["data"]
    return float(found["p_val"]), float(found["distance"])


def _context(ref: NDArray, cur: NDArray) -> tuple[float, float]:
    """Context: the first two columns of tastes are explained by nothing but how active and how old the user is."""
    import alibi_detect.cd as cd

    ref, cur = (side[:CONTEXT_USERS].astype(np.float32) for side in (ref, cur))
    context = slice(6, 9)  # activity, history, tenure
    taste = np.r_[0:6, 9 : ref.shape[1]]
    detector = cd.ContextMMDDrift(
        ref[:, taste], ref[:, context], backend="pytorch", device="cpu", n_permutations=100, verbose=False
    )
    found = detector.predict(cur[:, taste], cur[:, context])["data"]
    return _counted(found["p_val"], 100), float(found["distance"])


def _online(name: str, ref: NDArray, cur: NDArray) -> tuple[float, float]:
    """Feed users one by one: p is alpha-like only, 0 where the detector fired within the window's users, else 1."""
    import alibi_detect.cd as cd

    detector = getattr(cd, name)(
        ref.astype(np.float32),
        ert=ONLINE_RUN,
        window_size=ONLINE_WINDOW,
        backend="pytorch",
        device="cpu",
        n_bootstraps=500,
        verbose=False,
    )
    for number, row in enumerate(cur.astype(np.float32), start=1):
        if detector.predict(row)["data"]["is_drift"]:
            return 0.0, float(number)
    return 1.0, float("nan")


DETECTORS: dict[str, Callable[[NDArray, NDArray], tuple[float, float]]] = {
    "ks": lambda ref, cur: _features("KSDrift", ref, cur),
    "cvm": lambda ref, cur: _features("CVMDrift", ref, cur),
    "tabular": lambda ref, cur: _features("TabularDrift", ref, cur),
    "chi2": _chi2,
    "mmd": lambda ref, cur: _joint("MMDDrift", ref, cur, n_permutations=100),
    "lsdd": lambda ref, cur: _joint("LSDDDrift", ref, cur, n_permutations=100),
    "classifier": _classifier,
    "spot_the_diff": lambda ref, cur: _joint("SpotTheDiffDrift", ref, cur, epochs=10, seed=0),
    "context_mmd": _context,
    "mmd_online": lambda ref, cur: _online("MMDDriftOnline", ref, cur),
    "lsdd_online": lambda ref, cur: _online("LSDDDriftOnline", ref, cur),
}
"""Name to `(ref, cur) -> (p, statistic)`, both sides one standardised row a user."""
