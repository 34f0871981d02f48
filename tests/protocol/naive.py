"""What a protocol means, event by event in plain Python: the reference for `ss4rec.protocol`."""

import math
from itertools import pairwise

import numpy as np

from ss4rec.data.ties import hashed


def k_core(histories, k):
    """Drop users and items with fewer than k events, one at a time, until none is left to drop."""
    histories = {user: list(events) for user, events in histories.items()}
    while True:
        counts = {}
        for events in histories.values():
            for item, _ in events:
                counts[item] = counts.get(item, 0) + 1
        rare = next((item for item, n in counts.items() if n < k), None)
        short = next((user for user, events in histories.items() if 0 < len(events) < k), None)
        if rare is not None:
            histories = {u: [e for e in events if e[0] != rare] for u, events in histories.items()}
        elif short is not None:
            histories[short] = []
        else:
            return histories


def quantile(times, share):
    """Linear quantile, rounded down."""
    times = sorted(times)
    place = share * (len(times) - 1)
    low = math.floor(place)
    high = min(low + 1, len(times) - 1)
    return math.floor(times[low] + (place - low) * (times[high] - times[low]))


def arranged(histories, protocol):
    found = {}
    for user, events in histories.items():
        if protocol.ties == "hash":
            events = sorted(events, key=lambda e: (e[1], int(hashed(np.array([user]), np.array([e[0]]))[0])))
        kept = []
        for event in events:
            if protocol.repeats == "drop" and kept_item(events, event, kept):
                continue
            kept.append(event)
        found[user] = kept
    return found


def kept_item(events, event, kept):
    """Whether the event before this one (dropped or not) is on the same item: a run of one item keeps its first."""
    return bool(kept) and kept[-1][0] == event[0]


def pick(candidates, choice, user, seed):
    if choice == "successive" or not candidates:
        return candidates
    if choice == "random":
        draw = int(hashed(np.array([user]), np.array([seed]))[0])
        return [candidates[draw % len(candidates)]]
    return [candidates[0 if choice == "first" else -1]]


def global_time(histories, protocol, cut_s=None):
    """Return training events, validation and test targets by user; a target is (known history, item or None, time)."""
    histories = arranged(histories, protocol)
    if protocol.k_core and protocol.core == "before":
        histories = k_core(histories, protocol.k_core)
    cut_s = cut_s or quantile([t for events in histories.values() for _, t in events], protocol.cut)
    past = {u: [e for e in events if e[1] <= cut_s] for u, events in histories.items()}
    if protocol.k_core and protocol.core == "after":
        past = k_core(past, protocol.k_core)
    past = {u: events if len(events) >= 2 else [] for u, events in past.items()}
    withheld = []
    if protocol.validation == "time":
        early = quantile([t for events in past.values() for _, t in events], protocol.validation_quantile)
        fit = {u: [e for e in events if e[1] <= early] for u, events in past.items()}
        chosen_by = {u: [n for n, e in enumerate(events) if e[1] > early] for u, events in past.items()}
    elif protocol.validation == "user":
        trained = [u for u, events in past.items() if events]
        trained.sort(key=lambda u: int(hashed(np.array([u]), np.array([protocol.seed]))[0]))
        withheld = trained[: protocol.validation_users]
        fit = {u: [] if u in withheld else events for u, events in past.items()}
        chosen_by = {u: list(range(len(events))) if u in withheld else [] for u, events in past.items()}
    else:
        fit = {u: events[:-1] for u, events in past.items()}
        chosen_by = {u: [len(events) - 1] if events else [] for u, events in past.items()}
    fit = {u: events if len(events) >= 2 else [] for u, events in fit.items()}
    if protocol.refit:
        fit = past
    known = {item for events in fit.values() for item, _ in events}

    def targets(user, events, places, choice):
        rows = []
        for place in places:
            item, time_s = events[place]
            before = all_before(histories[user], events, place)
            history = [e for e in before if e[0] in known]
            if len(history) >= protocol.min_history:
                rows.append((history, item if item in known else None, time_s))
        return pick(rows, choice, user, protocol.seed)

    valid_choice = "last" if protocol.validation == "last_train_item" else protocol.validation_targets
    valid = {u: targets(u, past[u], chosen_by[u], valid_choice) for u in histories}
    test = {
        u: targets(u, events, [n for n, e in enumerate(events) if e[1] > cut_s], protocol.targets)
        for u, events in histories.items()
    }
    return fit, valid, test, known


def all_before(history, events, place):
    """Return all of a user's events before one of some of them (the same tuple object)."""
    return history[: next(n for n, event in enumerate(history) if event is events[place])]


def gaps(fit):
    """Return the seconds between consecutive training events."""
    return [b[1] - a[1] for events in fit.values() for a, b in pairwise(events)]
