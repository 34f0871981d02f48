"""The folder of a job in progress: where blocks lie, what belongs to which job, and how the result is published."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ss4rec.data.prepared.build import check_free
from ss4rec.errors import DataError
from ss4rec.io.atomic import missing_parents, remove_empty, write_whole
from ss4rec.io.paths import AnyPath, RemotePath, remove_tree

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
    made: tuple[Path, ...]
    """Folders around it that this job made."""

    @classmethod
    def enter(
        cls,
        out: AnyPath,
        overwrite: bool,
        plan: Mapping[str, Any],
        check: Callable[[AnyPath, bool, bool], None] = check_free,
        *,
        keep_other: bool = False,
    ) -> tuple[WorkFolder, bool]:
        """Return the folder of this job, and whether an earlier attempt left something to go on with.

        Args:
            out: the folder that will be.
            overwrite: whether an older result there may be replaced.
            plan: what must be the same for a job to go on; JSON.
            check: refuses an `out` that is taken; is told whether an unfinished result of this job may stand there.
            keep_other: refuse to replace what another unfinished job left, unless `overwrite`.

        Raises:
            DataError: if `out` is taken or cannot be written.
        """
        work = cls(out, out.parent / f".{out.name}.work", tuple(missing_parents(out)))
        text = json.dumps(plan, indent=2, sort_keys=True)
        plan_path = work.root / PLAN_NAME
        again = plan_path.is_file() and plan_path.read_text() == text
        check(out, overwrite, again and isinstance(out, RemotePath))
        if keep_other and not again and not overwrite and plan_path.is_file():
            raise DataError(
                f"{work.root} holds an unfinished job that was asked for something else "
                f"({_differences(plan_path.read_text(), plan)}); finish it with its own options, or give --overwrite "
                "to begin anew, or another --out"
            )
        if not again:
            remove_tree(work.root)
            if isinstance(out, RemotePath):
                remove_tree(out)
            with work._refusing():
                write_whole(plan_path, text.encode())
        return work, again

    def discard(self) -> None:
        """Remove what the job has made."""
        remove_tree(self.root)
        remove_empty(self.made)

    @property
    def result(self) -> AnyPath:
        """Where the result grows."""
        return self.root / "new" if isinstance(self.root, Path) else self.out

    @contextmanager
    def publishing(self, *, keep: bool = False) -> Iterator[None]:
        """Put the result into its place when the block ends.

        A job that is refused, or that its user stops, leaves nothing; one that is killed goes on the next time.

        Args:
            keep: leave what is there also after a stop or an error: its parts are worth going on with.
        """
        with self._refusing(keep):
            yield
            if isinstance(self.out, Path) and isinstance(self.root, Path):
                if self.out.exists():
                    os.replace(self.out, self.root / "old")
                os.replace(self.root / "new", self.out)
            remove_tree(self.root)

    @contextmanager
    def _refusing(self, keep: bool = False) -> Iterator[None]:
        """Leave nothing behind if the user stops a block, or the input or this machine's disk is at fault."""
        try:
            yield
        except KeyboardInterrupt:
            if not keep:
                self.discard()
            raise
        except (DataError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(self.out, Path):
                raise  # of a service that may be there again when the same command goes on
            if not keep:
                self.discard()
            if isinstance(error, OSError):
                raise DataError(f"cannot write {self.out}: {error}; give another --out") from None
            raise


def _differences(text: str, plan: Mapping[str, Any]) -> str:
    """Name the parts of a plan that differ from one in a file."""
    try:
        other = json.loads(text)
    except ValueError:
        return "its plan is damaged"
    names = [name for name in sorted({*other, *plan}) if other.get(name) != plan.get(name)]
    inner = [
        f"{name}.{key}"
        for name in names
        if isinstance(other.get(name), dict) and isinstance(plan.get(name), dict)
        for key in sorted({*other[name], *plan[name]})
        if other[name].get(key) != plan[name].get(key)
    ]
    return ", ".join(inner or names)
