"""Personalisation: how little two users' lists have in common; 0 where all get the same list, 1 where none overlap."""

from __future__ import annotations

from ss4rec.evaluation.lists._lists import Exposure, ExposureMetric


def _of(exposure: Exposure) -> float:
    """1 - mean over pairs of lists of the fraction of places in common.

    An item on c lists is common to c (c - 1) / 2 pairs, so no pair has to be looked at.
    """
    counts_I = exposure.counts_V[1:].double()
    pairs = exposure.num_lists * (exposure.num_lists - 1) / 2
    if not pairs:
        return float("nan")
    return 1.0 - float((counts_I * (counts_I - 1)).sum()) / 2 / (pairs * exposure.k)


personalisation = ExposureMetric("personalisation", _of)
"""1 - mean overlap of two lists."""
