"""The neutral order of events of one second: by a fixed hash instead of the order of the file.

Half of ML-1M's gaps are 0 seconds, and within them files keep the order in which the site showed films, the same for
everybody. A hash of (user, item) has no such order: what it puts next to each other differs from user to user.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ties = Literal["file", "hash"]
"""What decides between events of one user and second: place in the file, or `hashed`."""


def hashed(users_E: npt.NDArray[Any], items_E: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a number for each event that depends on nothing but user and item (the finaliser of SplitMix64).

    Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), with Stafford's constants.
    """
    mixed = users_E.astype(np.uint64) << np.uint64(32) | items_E.astype(np.uint64)
    mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_order(
    users_E: npt.NDArray[Any], items_E: npt.NDArray[Any], times_E: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the order by (user, time, hash of user and item).

    Args:
        users_E: index of each event's user in the prepared folder.
        items_E: index of each event's item in the prepared folder.
        times_E: unix seconds.
    """
    return np.asarray(np.lexsort((hashed(users_E, items_E), times_E, users_E)))
