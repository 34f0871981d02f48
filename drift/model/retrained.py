"""Models that were trained again on later cuts of the same data: which windows each stands for, in whose numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_items
from ss4rec.errors import ContractError
from ss4rec.runs.folder import RunFolder

if TYPE_CHECKING:
    from drift.model.rank import RankTask


@dataclass(frozen=True)
class Models:
    """The runs whose quality is watched."""

    frozen: Path
    """Trained up to the report's cut."""
    retrained: tuple[Path, ...] = ()
    """Trained up to later cuts of the same data; each stands for the windows from its cut to the next one's."""


@dataclass(frozen=True)
class OwnOrder:
    """The items of a model that numbers those of the past otherwise: such as never trained come last."""

    remap_V: NDArray[np.int32]
    """As in `TargetChoice`."""
    from_V: NDArray[np.int64]
    """The past's index of the model's items 1, 2, ..., and 0 for padding."""

    @property
    def size(self) -> int:
        """Items that the model ranks."""
        return len(self.from_V) - 1

    def moved(self, values_V: Any) -> Any:
        """Return rows of the past's items, a NumPy array or a sparse matrix, in the model's order."""
        return values_V[self.from_V]


def own_order(run: Path, timeline: PreparedFolder, vocabulary: int) -> OwnOrder | None:
    """Return how a run numbers the items of the past; None if as the past does.

    Args:
        run: the run.
        timeline: the whole data, whose first items are those of the past.
        vocabulary: items of the past.
    """
    remap_V = remap(timeline.items["source_id"], read_items(run)["source_id"])
    if np.array_equal(remap_V[: vocabulary + 1], np.arange(vocabulary + 1)):
        return None
    size = read_items(run).num_rows
    from_V = np.zeros(size + 2, np.int64)
    from_V[remap_V[: vocabulary + 1]] = np.arange(vocabulary + 1)
    return OwnOrder(remap_V, from_V[: size + 1])


def check_retrained(runs: Sequence[Path], timeline: PreparedFolder, cut_s: int) -> None:
    """Check that retrained runs are of later cuts of the same data.

    Raises:
        ContractError: naming the run and what is wrong with it.
    """
    for run in runs:
        own_s = RunFolder.open(run).record().cut_s
        if own_s is None or own_s <= cut_s:
            raise ContractError(
                f"--retrained {run.name} was trained on data cut at {own_s}, the report's cut is {cut_s}; "
                "split the same data at a later date and train on that past"
            )
        size = read_items(run).num_rows
        remap_V = remap(timeline.items["source_id"], read_items(run)["source_id"])
        if (known := int((remap_V[1:] <= size).sum())) != size:
            raise ContractError(
                f"--retrained {run.name} knows {size:,} items, {known:,} of them are in {timeline}; "
                "give runs on the same data"
            )


def later_task(
    task: RankTask, future: Sequence[int], run: Path, runs: Sequence[Path], timeline: PreparedFolder
) -> RankTask:
    """Return the task of a retrained run: its own items, the windows from its cut to the next run's."""
    cuts = {other: RunFolder.open(other).record().cut_s or 0 for other in runs}
    next_cut_s = min((cut_s for cut_s in cuts.values() if cut_s > cuts[run]), default=2**62)
    windows = task.choice.windows
    own = [w for w in future if cuts[run] < windows[w].start_s <= next_cut_s and w in task.choice.users]
    choice = replace(
        task.choice,
        data=RunFolder.open(run).config().data,
        users={window: task.choice.users[window] for window in own},
        vocabulary=read_items(run).num_rows,
        remap_V=remap(timeline.items["source_id"], read_items(run)["source_id"]),
        told=RunFolder.open(run).record().columns.context,
    )
    return replace(task, choice=choice, baselines=None, genres_VG=None)


def remap(timeline: pa.ChunkedArray, known: pa.ChunkedArray) -> NDArray[np.int32]:
    """Return a model's index of each item of the timeline: its place in `known` plus 1, `len(known) + 1` if not there.

    Entry 0 is padding.
    """
    at = pa.compute.index_in(timeline, value_set=known.combine_chunks())
    found_V = pa.compute.fill_null(at, len(known)).to_numpy() + 1
    return np.asarray(np.concatenate([[0], found_V]).astype(np.int32))
