"""Shannon entropy of exposure: how evenly the places go to items, in nats; log I where all are shown equally often."""

from __future__ import annotations

import torch

from ss4rec.evaluation.lists._lists import Exposure, ExposureMetric


def _of(exposure: Exposure) -> float:
    """-sum p log p, with p an item's fraction of all places."""
    shares_I = exposure.counts_V[1:].double() / exposure.counts_V[1:].sum()
    return float(torch.special.entr(shares_I).sum())


entropy = ExposureMetric("entropy", _of)
"""-sum p log p over items, p being the fraction of places that an item takes."""
