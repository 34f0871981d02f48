"""Files on this machine or behind any pyarrow or fsspec file system, with the few methods of `Path` that we use.

`s3://bucket/data`, `gs://..`, `hdfs://..` are pyarrow's own; another scheme is asked of fsspec, which needs the package
that serves it (`s3fs`, `adlfs`, ...). An S3-compatible server is named by `AWS_ENDPOINT_URL` or in the address:
`s3://bucket/data?endpoint_override=127.0.0.1:9000&scheme=http`.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs as pafs

from ss4rec.errors import DataError
from ss4rec.io.patience import patiently


@dataclass(frozen=True)
class RemotePath:
    """A file or a folder on a file system that is not this machine's."""

    filesystem: pafs.FileSystem
    """Can be pickled, so tasks on other machines open the same."""
    path: str
    """Within the file system, without scheme."""

    def __str__(self) -> str:
        return f"{self.filesystem.type_name}://{self.path}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Last part."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """Last part without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """Suffix of the last part, with its dot."""
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder around."""
        return RemotePath(self.filesystem, str(PurePosixPath(self.path).parent))

    def resolve(self) -> RemotePath:
        """Return itself; there is nothing to follow."""
        return self

    absolute = resolve

    def exists(self) -> bool:
        """Return whether there is a file or a folder."""
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_dir(self) -> bool:
        """Return whether it is a folder."""
        return bool(self._info().type == pafs.FileType.Directory)

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return bool(self._info().type == pafs.FileType.File)

    def stat(self) -> Any:
        """Return an object with `st_size` and `st_mtime_ns`."""
        info = self._info()
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(str(self))
        return SimpleNamespace(st_size=info.size, st_mtime_ns=info.mtime_ns or 0)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open for reading at any place, or with `wb` for writing from the start."""
        if mode == "wb":
            stream: IO[bytes] = self.filesystem.open_output_stream(self.path)
            return stream
        # Reads of a line or a few bytes are common and each would be a request.
        return io.BufferedReader(_Raw(self, self.open_input()), 1 << 20)

    def open_input(self) -> pa.NativeFile:
        """Open for reading at any place, as pyarrow does it."""
        return patiently(self, lambda: self.filesystem.open_input_file(self.path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole content."""
        return self.read_bytes().decode(encoding)

    def read_bytes(self) -> bytes:
        """Return the whole content."""

        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path) as stream:
                return bytes(stream.read())

        return patiently(self, read)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield what is in the folder; nothing if there is none."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        for info in patiently(self, lambda: self.filesystem.get_file_info(selector)):
            yield RemotePath(self.filesystem, info.path)

    def _info(self) -> pafs.FileInfo:
        return patiently(self, lambda: self.filesystem.get_file_info(self.path))


AnyPath = Path | RemotePath


class _Raw(io.RawIOBase):
    """pyarrow's file as a raw stream for `io.BufferedReader`."""

    def __init__(self, path: RemotePath, file: pa.NativeFile) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any place can be gone to."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte, counted as `io.IOBase.seek` does; return the place."""
        self._file.seek(offset, whence)
        return int(self._file.tell())

    def tell(self) -> int:
        """Return the place in bytes."""
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and return how many bytes came; a read that fails for a while is tried again."""
        at = self._file.tell()

        def read() -> bytes:
            self._file.seek(at)
            return bytes(self._file.read(len(buffer)))

        data = patiently(self._path, read)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def to_path(text: str | AnyPath) -> AnyPath:
    """Return what an address or a local path names.

    Raises:
        DataError: if the scheme is unknown or the file system cannot be reached.
    """
    if not isinstance(text, str) or "://" not in text:
        return text if isinstance(text, RemotePath) else Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
        return RemotePath(filesystem, path)
    except (pa.ArrowException, OSError, ValueError):
        return _through_fsspec(text)


def _through_fsspec(text: str) -> RemotePath:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except (ValueError, ImportError) as error:
        raise DataError(
            f"{text} is on no file system that pyarrow or fsspec can open here ({error}); "
            "install the package it names, or give a local path"
        ) from None
    return RemotePath(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path)


def read_range(path: AnyPath, start: int, length: int) -> bytes:
    """Return `length` bytes from byte `start` on."""
    if isinstance(path, Path):
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)
    with path.open_input() as file:
        return patiently(path, lambda: bytes(file.read_at(length, start)))


def remove_tree(path: AnyPath) -> None:
    """Delete a folder with all that is in it, if it is there."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.is_dir():
        patiently(path, lambda: path.filesystem.delete_dir(path.path))
