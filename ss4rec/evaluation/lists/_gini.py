"""Gini index of exposure: 0 where all items are shown equally often, near 1 where a few take all places."""

from __future__ import annotations

import torch

from ss4rec.evaluation.lists._lists import Exposure, ExposureMetric


def _of(exposure: Exposure) -> float:
    """Sum over items in ascending order of (2 i - I - 1) c_i, over I times all places."""
    counts_I = exposure.counts_V[1:].sort().values.double()
    place_I = torch.arange(1, len(counts_I) + 1, device=counts_I.device, dtype=torch.float64)
    return float(((2 * place_I - len(counts_I) - 1) * counts_I).sum() / (len(counts_I) * counts_I.sum()))


gini = ExposureMetric("Gini", _of)
"""Gini index of how often each item of the catalogue is shown."""
