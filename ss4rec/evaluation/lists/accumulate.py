"""List metrics of any number of users in memory that does not grow with them: batch by batch, on any device."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from ss4rec.evaluation.lists._lists import Exposure, ExposureMetric, ItemFacts, ListMetric, Lists

CHUNK_PLACES = 1 << 21
"""Places of lists that are looked at together."""


class ListResult(BaseModel):
    """What the recommended lists of one scorer are like."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    k: PositiveInt
    """Places of a list."""
    num_lists: PositiveInt
    """Lists."""
    feature: str | None = None
    """The categorical feature of diversity and calibration, as `genres`; None: items have none."""
    metrics: dict[str, float | None]
    """By name (`ss4rec.evaluation.lists`); None where no list has a value."""
    exposure: tuple[float, ...]
    """Fraction of all places that each tenth of the items has, the most popular tenth first."""
    training: tuple[float, ...]
    """The same of training events."""


class ListTotals:
    """Sums over lists; feed it batches with `update`, then ask for `result`.

    Args:
        item_facts: what is known about items; its device is where everything is computed.
        metrics: which metrics; those that need features or histories that are not there are left out.
        k: places of a list.
    """

    def __init__(
        self, item_facts: ItemFacts, metrics: tuple[ListMetric | ExposureMetric, ...], k: int
    ) -> None:
        self.item_facts = item_facts
        self.k = k
        self.num_lists = 0
        self.device = item_facts.events_V.device
        has_features = item_facts.features_VG is not None
        self.per_list = [
            m for m in metrics if isinstance(m, ListMetric) and (has_features or not m.needs_features)
        ]
        self.of_exposure = [m for m in metrics if isinstance(m, ExposureMetric)]
        self.counts_V = torch.zeros_like(item_facts.events_V)
        self.sums = {m.name: [0.0, 0] for m in self.per_list}

    def update(self, lists: Lists) -> None:
        """Add some lists; they may be on another device."""
        step = max(1, CHUNK_PLACES // self.k)
        for first in range(0, len(lists.items_BK), step):
            self._add(lists.slice(slice(first, first + step), self.device))

    def _add(self, lists: Lists) -> None:
        self.num_lists += len(lists.items_BK)
        self.counts_V += torch.bincount(lists.items_BK.flatten(), minlength=len(self.counts_V))
        self.counts_V[0] = 0
        for metric in self.per_list:
            if metric.name in lists.known:
                values_B: Tensor = lists.known[metric.name]
            elif metric.needs_history and lists.history_BG is None:
                continue
            else:
                values_B = metric.of(lists, self.item_facts)
            total, count = torch.stack([values_B.nansum(), (~values_B.isnan()).sum().double()]).tolist()
            self.sums[metric.name][0] += total
            self.sums[metric.name][1] += int(count)

    def result(self, feature: str | None = None) -> ListResult:
        """Return the metrics of all lists so far."""
        from ss4rec.evaluation.lists._deciles import exposure_by_decile

        exposure = Exposure(self.counts_V, self.num_lists, self.k)
        values = {m.name: m.of(exposure) for m in self.of_exposure}
        values |= {name: total / count for name, (total, count) in self.sums.items() if count}
        shown, trained = exposure_by_decile(exposure, self.item_facts)
        return ListResult(
            k=self.k,
            num_lists=self.num_lists,
            feature=feature,
            metrics={name: value if value == value else None for name, value in values.items()},
            exposure=tuple(shown),
            training=tuple(trained),
        )
