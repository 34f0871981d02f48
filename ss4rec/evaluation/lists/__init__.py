"""Metrics of recommended lists: what a catalogue and its users get to see, beside whether it is right.

One metric a file: a `ListMetric` gives a value per list, an `ExposureMetric` one value from how often each item was
shown. `ListTotals` adds lists up, batch by batch.
"""

from ss4rec.evaluation.lists._average_popularity import average_popularity
from ss4rec.evaluation.lists._calibration import calibration, divergence
from ss4rec.evaluation.lists._coverage import coverage
from ss4rec.evaluation.lists._deciles import by_popularity_decile
from ss4rec.evaluation.lists._diversity import diversity, hamming_diversity
from ss4rec.evaluation.lists._entropy import entropy
from ss4rec.evaluation.lists._gini import gini
from ss4rec.evaluation.lists._lists import (
    Exposure,
    ExposureMetric,
    ItemFacts,
    ListMetric,
    Lists,
    history_shares,
    one_hot,
)
from ss4rec.evaluation.lists._novelty import novelty
from ss4rec.evaluation.lists._personalisation import personalisation
from ss4rec.evaluation.lists._serendipity import serendipity
from ss4rec.evaluation.lists.accumulate import ListResult, ListTotals

LIST_METRICS: tuple[ListMetric | ExposureMetric, ...] = (
    coverage,
    gini,
    entropy,
    personalisation,
    average_popularity,
    novelty,
    serendipity,
    diversity,
    calibration,
)
"""Every list metric, in the order of tables."""

__all__ = [
    "LIST_METRICS",
    "Exposure",
    "ExposureMetric",
    "ItemFacts",
    "ListMetric",
    "ListResult",
    "ListTotals",
    "Lists",
    "average_popularity",
    "by_popularity_decile",
    "calibration",
    "coverage",
    "divergence",
    "diversity",
    "entropy",
    "gini",
    "hamming_diversity",
    "history_shares",
    "novelty",
    "one_hot",
    "personalisation",
    "serendipity",
]
