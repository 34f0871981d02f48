"""The model's numbers of items: first those with training events, then such as are known by their features alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ss4rec.protocol.divide import BoolArray, Events, Rules, held_out, parts


def numbered(rules: Rules, events: Events, items: int, described_V: BoolArray | None) -> Rules:
    """Return the rules with a number for each item that the model knows.

    Args:
        rules: everything else.
        events: all events that count.
        items: items of the folder.
        described_V: items that a model knows by features where they never train, with padding as entry 0; None: none.
    """
    trains_V = _training_items(rules, events, items, described_V is not None)
    as_it_is = rules.protocol.kind == "leave_one_out" and rules.items_V is None
    if described_V is not None and as_it_is and trains_V[1:].all():
        return rules  # the folder's own numbers, which other programs know
    index_V = np.where(trains_V, np.cumsum(trains_V), 0)
    if described_V is None:
        return replace(rules, index_V=index_V.astype(np.int32))
    trained = int(trains_V.sum())
    counts_V = np.bincount(events.items_E, minlength=items + 1)
    cold_V = described_V & ~trains_V & (counts_V > 0)
    index_V = np.where(cold_V, trained + np.cumsum(cold_V), index_V)
    return replace(rules, index_V=index_V.astype(np.int32), trained=trained)


def _training_items(rules: Rules, events: Events, items: int, strictly: bool) -> BoolArray:
    """Return which items train, with padding as entry 0; of leave-one-out all do, unless `strictly` is asked."""
    fit_E = np.ones(len(events.items_E), bool)
    if rules.protocol.kind == "global_time":
        fit_E = parts(events, rules).fit_E
    elif strictly:
        ends_U = events.offsets_U1[:-1] + held_out(events, rules)[0]
        fit_E = np.arange(len(fit_E)) < ends_U[events.row_E]
    return np.bincount(events.items_E[fit_E], minlength=items + 1) > 0


def by_index(index_V: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the folder's item of the model's items 1, 2, ..."""
    known_I = np.flatnonzero(index_V)
    return known_I[np.argsort(index_V[known_I])].astype(np.int32)
