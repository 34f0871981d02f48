"""The folder of a job in progress: where blocks lie, what belongs to which job, and how the result is published."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ss4rec.data.prepare.memory import check_free
from ss4rec.io.paths import AnyPath, RemotePath, remove_tree, write_whole

PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class WorkFolder:
    """`.OUT.work` beside the folder that will be: blocks, and the result until it is complete.

    On this machine's disks the result is moved to its place by one rename. Object stores have no rename: there the
    result grows in its place and the manifest, without which nothing reads it, comes last.
    """

    out: AnyPath
    """The folder that will be."""
    root: AnyPath
    """The folder of the job."""
    overwrite: bool
    """Whether a prepared folder at `out` is replaced."""

    @classmethod
    def enter(cls, out: AnyPath, overwrite: bool, plan: Mapping[str, Any]) -> tuple[WorkFolder, bool]:
        """Return the folder of this job, and whether an earlier attempt left something to go on with.

        Raises:
            DataError: if `out` is taken.
        """
        work = cls(out, out.parent / f".{out.name}.work", overwrite)
        text = json.dumps(plan, indent=2, sort_keys=True)
        plan_path = work.root / PLAN_NAME
        again = plan_path.is_file() and plan_path.read_text() == text
        check_free(out, overwrite, unfinished=again and isinstance(out, RemotePath))
        if not again:
            remove_tree(work.root)
            if isinstance(out, RemotePath):
                remove_tree(out)
            write_whole(plan_path, text.encode())
        return work, again

    @property
    def result(self) -> AnyPath:
        """Where the result grows."""
        return self.root / "new" if isinstance(self.root, Path) else self.out

    def publish(self) -> None:
        """Put the complete result into its place and delete the rest."""
        if isinstance(self.out, Path) and isinstance(self.root, Path):
            if self.out.exists():
                os.replace(self.out, self.root / "old")
            os.replace(self.root / "new", self.out)
        remove_tree(self.root)
