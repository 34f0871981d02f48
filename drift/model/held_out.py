"""What was held out of training before the cut: events that say how good a model was when it was new."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ss4rec.data.ids import drawn, stable_keys
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.runs.folder import RunFolder


@dataclass(frozen=True)
class HeldOut:
    """Whose last event before the cut was held out of training, and from when on."""

    keys_K: NDArray[np.int64] | None = None
    """Stable keys of these users, rising; None: everybody's."""
    from_s: int = 0
    """First second whose events cannot have trained, where that is a question of time."""

    def of(self, keys_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of the keys whose last event was held out."""
        return keys_N if self.keys_K is None else keys_N[np.isin(keys_N, self.keys_K)]


def held_out(run: Path, past: PreparedFolder) -> HeldOut:
    """Return what a run's protocol held out of the past that it was trained on.

    Args:
        run: run folder.
        past: the prepared folder that it was trained on.
    """
    record = RunFolder.open(run).record()
    if record.protocol.kind == "global_time":
        trained_until_s = record.trained_until_s
        assert trained_until_s is not None
        return HeldOut(from_s=trained_until_s + 1)
    count = record.protocol.held_out_users
    if count is None:
        return HeldOut()
    ids = past.users["source_id"].to_pylist()
    return HeldOut(np.sort(stable_keys(ids)[drawn(ids, count)]))
