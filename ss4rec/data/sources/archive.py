"""The files of a source, whether it is a zip, a folder, or one file with its neighbours. Nothing is ever unpacked."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from ss4rec.errors import DataError
from ss4rec.io.atomic import sha256_of
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import refuse_bomb


class Archive:
    """The files of a source and how to open them.

    Args:
        path: a zip, a folder (looked at two levels deep), or a single file, of which only the neighbours that its
            layout names are read besides.

    Raises:
        DataError: if `path` is missing, is a damaged zip, or a zip with a member outside its own folder.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._only: str | None = None
        self._zipped = False
        self._open: Callable[[str], IO[bytes]]
        if not path.exists():
            raise DataError(f"{path} does not exist; give a zip, a folder or a file of ratings")
        if path.is_dir():
            self.names = sorted(_names(path))
            self._open = lambda name: _inside(path, name).open("rb")
        elif path.suffix.lower() == ".zip":
            self._zip = _open_zip(path)
            self._zipped = True
            self.names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
            self._open = self._member
        else:
            self.names = sorted(found.name for found in path.parent.iterdir() if found.is_file())
            self._only = path.name
            self._open = lambda name: (path.parent / name).open("rb")

    def __reduce__(self) -> tuple[type[Archive], tuple[AnyPath]]:
        """Travel as the path alone: whoever receives it opens it there."""
        return Archive, (self.path,)

    def find(self, patterns: tuple[str, ...]) -> str | None:
        """Return the one file whose last part matches one of `patterns`, or None.

        Raises:
            DataError: if several do.
        """
        names = [self._only] if self._only else self.names
        found = [
            name
            for name in names
            if not name.startswith("__MACOSX/")
            and any(fnmatch(PurePosixPath(name).name, pattern) for pattern in patterns)
        ]
        if len(found) > 1:
            raise DataError(
                f"{self.path} has {len(found)} files that match {' or '.join(patterns)} "
                f"({', '.join(found[:5])}); give one of these files as the source"
            )
        return found[0] if found else None

    def neighbour(self, name: str, other: str) -> str | None:
        """Return the path of file `other` in the folder of `name`, or None."""
        path = PurePosixPath(name).with_name(other).as_posix()
        return path if path in self.names else None

    def open(self, name: str) -> IO[bytes]:
        """Open one of `names` for reading."""
        return self._open(name)

    def _member(self, name: str) -> IO[bytes]:
        """Open a member of the zip."""
        info = self._zip.getinfo(name)
        refuse_bomb(self.where(name), info.compress_size, info.file_size)
        try:
            return self._zip.open(info)
        except (RuntimeError, zipfile.BadZipFile, zlib.error, OSError, ValueError) as error:
            raise DataError(
                f"{self.where(name)} cannot be opened ({error}); unpack the archive and give the folder"
            ) from None

    def where(self, name: str) -> str:
        """Return how messages call file `name`."""
        folder = self.path.parent if self._only else self.path
        return f"{folder}/{name}"

    @property
    def seekable(self) -> bool:
        """Whether a file can be read from any byte on; a member of a zip only from its beginning."""
        return not self._zipped

    def size(self, name: str) -> int:
        """Return the bytes of one of `names`, unpacked."""
        if self._zipped:
            return self._zip.getinfo(name).file_size
        return self._file(name).stat().st_size

    def stamp(self, name: str) -> dict[str, object]:
        """Return what gives away that a source has changed, without reading it."""
        stat = (self.path if self._zipped else self._file(name)).stat()
        return {"path": str(self.path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}

    def _file(self, name: str) -> AnyPath:
        return self.path / name if self.path.is_dir() else self.path.parent / name

    def identity(self, name: str) -> tuple[int, str]:
        """Return bytes and SHA-256 of the zip, or else of file `name`, which holds the ratings."""
        file = self.path / name if self.path.is_dir() else self.path
        return file.stat().st_size, sha256_of(file)


def _names(folder: AnyPath) -> Iterator[str]:
    """Yield the files of a folder and of its sub-folders, relative to it."""
    for found in folder.iterdir():
        if found.is_file():
            yield found.name
        elif found.is_dir():
            yield from (f"{found.name}/{inner.name}" for inner in found.iterdir() if inner.is_file())


def _open_zip(path: AnyPath) -> zipfile.ZipFile:
    """Open a zip and refuse a damaged one and one with members outside its own folder."""
    try:
        archive = zipfile.ZipFile(path if isinstance(path, Path) else path.open("rb"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise DataError(f"{path} is no complete zip ({error}); download it again") from None
    for info in archive.infolist():
        name = info.filename
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path} has a symbolic link, {name!r}; do not trust this archive")
        member = PurePosixPath(name.replace("\\", "/"))
        if member.is_absolute() or ".." in member.parts:
            raise DataError(
                f"{path} has a member outside its own folder, {name!r}; do not trust this archive"
            )
    return archive


def _inside(folder: AnyPath, name: str) -> AnyPath:
    """Return the path of `name` in `folder`, unless it leads out of it by a link."""
    path = folder / name
    if isinstance(path, Path) and not path.resolve().is_relative_to(Path(str(folder)).resolve()):
        raise DataError(f"{path} is a symbolic link out of its folder; copy the file to its place")
    return path


class SingleByteSeparator(io.RawIOBase):
    """A stream of bytes in which each `::` has become the one byte 0x1f, since CSV readers split at one byte."""

    separator = "\x1f"

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._held = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` translated bytes (2 or more, or all if negative); empty only at the end."""
        while True:
            # The last of an odd number of `:` at a chunk's end may be half a separator: it waits for the next chunk.
            chunk = self._stream.read(size - len(self._held) if size > 0 else -1)
            data = self._held + chunk
            colons = len(data) - len(data.rstrip(b":"))
            self._held = b":" if chunk and colons % 2 else b""
            data = data[: len(data) - len(self._held)].replace(b"::", b"\x1f")
            if data or not chunk:
                return data
