"""Files and folders that appear whole or not at all, and the checksum that says whether they still are."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ss4rec.io.paths import AnyPath, RemotePath
from ss4rec.io.patience import patiently

WHOLE_OR_NOT = ("s3", "gcs", "abfs")
"""File systems on which a file appears when it is complete and not before, and where a rename is a copy."""


def write_whole(
    path: AnyPath, data: bytes | pa.Buffer | Iterable[memoryview], *, durable: bool = False
) -> None:
    """Write a file that appears complete or not at all; its folder is made if it is missing.

    Args:
        path: the file.
        data: its content, or parts of it in order.
        durable: force the content to disk before the file appears, so that it survives a power cut too.
    """
    parts = (data,) if isinstance(data, bytes | pa.Buffer) else tuple(data)
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with draft.open("wb") as file:
                file.writelines(parts)
            if durable:
                flush(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return
    patiently(path, lambda: _write_remote(path, parts))


def _write_remote(path: RemotePath, parts: tuple[bytes | pa.Buffer | memoryview, ...]) -> None:
    direct = path.filesystem.type_name in WHOLE_OR_NOT
    if not direct:
        path.filesystem.create_dir(path.parent.path, recursive=True)
    target = path if direct else path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    with target.filesystem.open_output_stream(target.path) as stream:
        for part in parts:
            stream.write(part)
    if not direct:
        path.filesystem.move(target.path, path.path)


def write_json(path: AnyPath, value: Any) -> None:
    """Write readable JSON, on disk before it appears."""
    write_whole(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), durable=True)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `out` by one rename when the block ends without an error.

    Until then nothing stands at `out`, or what stood there before. After an error nothing is left behind.
    """
    made = missing_parents(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            draft = Path(temporary) / "new"
            draft.mkdir()
            yield draft
            if out.exists():
                out.rename(Path(temporary) / "old")
            draft.rename(out)
    except BaseException:
        remove_empty(made)
        raise


def missing_parents(path: AnyPath) -> list[Path]:
    """Return the folders around `path` that do not exist yet, innermost first; none on remote file systems."""
    return [folder for folder in path.parents if not folder.exists()] if isinstance(path, Path) else []


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, up to the first that is missing or holds something."""
    try:
        for folder in folders:
            folder.rmdir()
    except OSError:
        return


def flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: AnyPath) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # Path.open says less
