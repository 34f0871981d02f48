"""Numbers of a plan: how long histories before targets are, and how much of the data each part has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ss4rec.data.batches.windows import ragged
from ss4rec.protocol.divide import Division, Events, IntArray, Rules, Targets, counted, parts


@dataclass(frozen=True)
class UserTargets:
    """How long each target's history is, user after user."""

    offsets_U1: IntArray
    """Where each user's targets begin and end."""
    ends_N: npt.NDArray[np.int32]
    """Events before each target."""
    cold: int
    """Targets whose item has no training events."""

    @property
    def users(self) -> int:
        """Users with a target."""
        return int((np.diff(self.offsets_U1) > 0).sum())

    @classmethod
    def of(cls, targets: Targets, users: int, rules: Rules) -> UserTargets:
        """Take what is needed of a whole folder's targets."""
        offsets_U1 = np.concatenate([[0], np.cumsum(targets.counts(users))])
        return cls(offsets_U1, targets.ends_N.astype(np.int32), int(rules.cold(targets.items_N).sum()))


def facts_of(
    rules: Rules, events: Events, division: Division, valid: UserTargets, test: UserTargets
) -> dict[str, int]:
    """Count rows, users and items of each part."""
    found = {
        "fit_rows": int(division.fit_U.sum()),
        "fit_users": int((division.fit_U > 0).sum()),
        "valid_users": valid.users,
        "valid_targets": int(valid.offsets_U1[-1]),
        "valid_cold_targets": valid.cold,
        "test_users": test.users,
        "test_targets": int(test.offsets_U1[-1]),
        "test_cold_targets": test.cold,
    }
    if rules.protocol.kind == "leave_one_out":
        return found
    known = counted(events, rules)
    part = parts(known, rules)
    later_users = np.unique(known.row_E[part.test_E])
    return {
        "train_rows": int(part.train_E.sum()),
        "train_users": len(np.unique(known.row_E[part.train_E])),
        "train_items": len(np.unique(known.items_E[part.train_E])),
        "fit_items": len(np.unique(known.items_E[part.fit_E])),
        "cut_s": int(rules.cut_s or 0),
        **({} if rules.valid_cut_s is None else {"valid_cut_s": rules.valid_cut_s}),
        "later_events": int(part.test_E.sum()),
        "later_users": len(later_users),
        "later_users_unranked": len(later_users) - test.users,
        **found,
    }


def training_gaps(division: Division) -> IntArray:
    """Return the seconds between consecutive training events of all users."""
    times_E, offsets_U1 = ragged(division.histories["timestamps"])
    place_E = np.arange(len(times_E)) - np.repeat(offsets_U1[:-1], np.diff(offsets_U1))
    fit_E = np.repeat(division.fit_U, np.diff(offsets_U1))
    return np.asarray(np.diff(times_E)[((place_E > 0) & (place_E < fit_E))[1:]])
