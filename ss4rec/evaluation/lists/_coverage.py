"""Coverage: the fraction of the catalogue that is on any list."""

from __future__ import annotations

from ss4rec.evaluation.lists._lists import Exposure, ExposureMetric


def _of(exposure: Exposure) -> float:
    """Items shown at least once, over all items."""
    return int((exposure.counts_V[1:] > 0).sum()) / (len(exposure.counts_V) - 1)


coverage = ExposureMetric("coverage", _of)
"""Items on any list / all items."""
