"""Append-only files of JSON lines: a line is there whole or not at all, whatever kills the writer."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ss4rec.errors import DataError, LeaseError
from ss4rec.io.atomic import flush
from ss4rec.io.untrusted import parse_json


class Journal:
    """Lines of JSON objects that are only ever added to.

    Args:
        path: the file; it appears with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """Return all lines; the last one, if a crash cut it short, is left out.

        Raises:
            DataError: if another line is damaged.
        """
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(self._whole().splitlines(), start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise DataError(
                    f"{self.path}, line {number}, is damaged ({error}); put a good copy back, or mend the line"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{self.path}, line {number}, is no JSON object; put a good copy back")
            rows.append(row)
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line, which is on disk when this returns; what a crash left of an earlier one is cut off first.

        Only one process may append at a time (`exclusive`).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(dict(row), sort_keys=True, allow_nan=False).encode() + b"\n"
        is_new = not self.path.exists()
        keep = len(self._whole())
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(handle, keep)
            os.lseek(handle, keep, os.SEEK_SET)
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new:
            flush(self.path.parent)

    def _whole(self) -> bytes:
        """Return the file up to its last line end."""
        found = self.path.read_bytes() if self.path.exists() else b""
        return found[: found.rfind(b"\n") + 1]


@contextmanager
def exclusive(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block; the system lets it go if the process dies.

    Args:
        path: the lock file; it stays, empty.
        what: what is locked, for the error.
        wait: wait for another process to let it go.

    Raises:
        LeaseError: if another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseError(f"another process works on {what}; wait until it has ended") from None
        yield
