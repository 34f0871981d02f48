"""TensorBoard: event files in the run folder, shown by `tensorboard --logdir STORAGE`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from ss4rec.errors import UsageError
from ss4rec.train.trackers.base import ExperimentTracker, RunEnd, RunStart


class TensorBoard(ExperimentTracker):
    """Event files of one run, written anew by each attempt: all its lines are logged again.

    Raises:
        UsageError: if TensorBoard is not installed.
    """

    title = "TensorBoard"

    def __init__(self, start: RunStart) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "tracking.tensorboard is true and TensorBoard is not installed: pip install 'ss4rec[tensorboard]'"
            ) from None
        folder = start.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))

    def log(self, kind: str, global_step: int, figures: Mapping[str, float]) -> None:
        """Write figures as scalars `kind/name`."""
        for name, value in figures.items():
            self.writer.add_scalar(f"{kind}/{name}", value, global_step)

    def finish(self, end: RunEnd) -> None:
        """Write the facts as text and the last figures as scalars."""
        self.writer.add_text("run", "\n".join(f"- {name}: {value}" for name, value in end.facts.items()))
        for name, value in end.figures.items():
            self.writer.add_scalar(name, value)
        self.writer.close()
