"""The files of a source, whether it is a zip, a folder, or one file with its neighbours. Nothing is ever unpacked."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from ss4rec.data.sources.packed import bare_name, damage_named, packing, unpacked
from ss4rec.data.sources.parts import are_one_table, in_order, is_hidden
from ss4rec.errors import DataError
from ss4rec.io.atomic import sha256_of
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import refuse_bomb

PACKED_RATIO = 8
"""About how many times longer packed text is unpacked."""
PROSE = ("readme", "license", "licence", "notes", "source.", "changelog", "copying")
"""Beginnings of names of files that are for people."""
MAX_DEPTH = 12
"""Folders within folders that are looked at, where their names are columns."""


class Archive:
    """The files of a source and how to open them.

    Args:
        path: a zip, a folder (looked at two levels deep, deeper where folders are named as in `day=1`), or a single
            file, of which only the neighbours that its layout names are read besides.

        called: what messages call its one file; by default its path.

    Raises:
        DataError: if `path` is missing, is a damaged zip, a zip with a member outside its own folder, or a folder of
            Delta or Iceberg, in which not every file belongs to the table.
    """

    def __init__(self, path: AnyPath, called: str | None = None) -> None:
        self.path = path
        self._called = called
        self._only: str | None = None
        self._zipped = False
        self._open: Callable[[str], IO[bytes]]
        if not path.exists():
            raise DataError(f"{path} does not exist; give a zip, a folder or a file of ratings")
        if not path.is_dir() and not path.is_file():  # opening a pipe would wait for ever
            raise DataError(
                f"{path} is neither a file nor a folder; give a zip, a folder or a file of ratings"
            )
        if path.is_dir():
            _refuse_lake(path)
            self.names = [name for name in sorted(_names(path)) if not is_hidden(name)]
            self._open = lambda name: _inside(path, name).open("rb")
        elif path.suffix.lower() == ".zip":
            self._zip = _open_zip(path)
            self._zipped = True
            members = [info.filename for info in self._zip.infolist() if not info.is_dir()]
            self.names = [name for name in members if not is_hidden(name)]
            self._open = self._member
        else:
            self.names = sorted(found.name for found in path.parent.iterdir() if found.is_file())
            self._only = path.name
            self._open = lambda name: (path.parent / name).open("rb")

    def __reduce__(self) -> tuple[type[Archive], tuple[AnyPath, str | None]]:
        """Travel as the path alone: whoever receives it opens it there."""
        return Archive, (self.path, self._called)

    @property
    def given(self) -> list[str]:
        """The files that may hold the ratings: the one that was given, or all."""
        return [self._only] if self._only else self.names

    @property
    def is_file(self) -> bool:
        """Whether one file was given, and no folder or zip."""
        return self._only is not None

    def find(self, patterns: tuple[str, ...]) -> str | None:
        """Return the one file whose last part matches one of `patterns`, in any case and packed or not; or None.

        Raises:
            DataError: if several do.
        """
        found = [
            name
            for name in self.given
            if any(fnmatch(bare_name(PurePosixPath(name).name), pattern) for pattern in patterns)
        ]
        if len(found) > 1:
            raise self.too_many(found, f"match {' or '.join(patterns)}")
        return found[0] if found else None

    def find_table(self, kinds: tuple[str, ...]) -> list[str]:
        """Return the files of one table, whose names end in one of `kinds`, packed or not; empty if there are none.

        Raises:
            DataError: if they are no parts of one table.
        """
        found = [
            name
            for name in self.given
            if PurePosixPath(bare_name(name)).suffix in kinds
            and not PurePosixPath(name).name.lower().startswith(PROSE)
        ]
        filled = [name for name in found if self.size(name)] or found
        if len(filled) > 1 and not are_one_table(filled):
            raise self.too_many(filled, "may be the table")
        return in_order(filled)

    def too_many(self, names: list[str], what: str) -> DataError:
        """Return the error about files of which only one can be meant."""
        return DataError(
            f"{self.path} has {len(names)} files that {what} ({', '.join(names[:5])}); "
            "give one of these files as the source"
        )

    def neighbour(self, name: str, other: str) -> str | None:
        """Return the path of file `other`, in any case, in the folder of `name`, or None."""
        path = PurePosixPath(name).with_name(other).as_posix().lower()
        return next((found for found in self.names if found.lower() == path), None)

    def open(self, name: str) -> IO[bytes]:
        """Open one of `names` for reading from its beginning, unpacked if it is packed."""
        stream = self.open_packed(name)
        with damage_named(self.where(name)):
            kind = packing(stream)
        return unpacked(stream, kind, self.where(name), self._packed_size(name)) if kind else stream

    def open_packed(self, name: str) -> IO[bytes]:
        """Open one of `names` as it lies there, for reading at any place.

        Raises:
            DataError: if it cannot be opened.
        """
        try:
            return self._open(name)
        except OSError as error:
            raise DataError(f"{self.where(name)} cannot be opened: {error.strerror or error}") from None

    def is_stream(self, name: str) -> bool:
        """Return whether a file can only be read from its beginning: a member of a zip, or a packed one."""
        if self._zipped:
            return True
        with self.open_packed(name) as stream, damage_named(self.where(name)):
            return packing(stream) is not None

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
        if self._called:
            return self._called
        folder = self.path.parent if self._only else self.path
        return f"{folder}/{name}"

    def size(self, name: str) -> int:
        """Return about how many bytes one of `names` has, unpacked."""
        if self._zipped:
            return self._zip.getinfo(name).file_size
        size = self._file(name).stat().st_size
        return size * PACKED_RATIO if bare_name(name) != name.lower() else size

    def _packed_size(self, name: str) -> int:
        """Return the bytes that a file takes where it lies."""
        return self._zip.getinfo(name).file_size if self._zipped else self._file(name).stat().st_size

    def stamp(self, names: Sequence[str]) -> dict[str, object]:
        """Return what gives away that a source has changed, without reading it."""
        if self._zipped or len(names) == 1:
            stat = (self.path if self._zipped else self._file(names[0])).stat()
            return {"path": str(self.path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        stats = [self._file(name).stat() for name in names]
        return {
            "path": str(self.path.resolve()),
            "bytes": [stat.st_size for stat in stats],
            "modified_ns": [stat.st_mtime_ns for stat in stats],
        }

    def _file(self, name: str) -> AnyPath:
        return self.path.parent / name if self._only else self.path / name

    def identity(self, names: Sequence[str]) -> tuple[int, str]:
        """Return bytes and SHA-256 of the zip, or else of the file with the ratings; of several, of all their sums."""
        files = [self.path] if self._zipped else [self._file(name) for name in names]
        sizes, sums = [file.stat().st_size for file in files], [sha256_of(file) for file in files]
        if len(sums) == 1:
            return sizes[0], sums[0]
        return sum(sizes), hashlib.sha256("".join(sums).encode()).hexdigest()


def _names(folder: AnyPath, prefix: str = "", depth: int = 2) -> Iterator[str]:
    """Yield the files of a folder and its sub-folders, relative to it; folders such as `day=1` may lie deeper."""
    for found in folder.iterdir():
        name = prefix + found.name
        if found.is_file():
            yield name
        elif found.is_dir() and not is_hidden(found.name):
            deeper = depth if "=" in found.name else depth - 1
            if deeper and name.count("/") < MAX_DEPTH:
                yield from _names(found, f"{name}/", deeper)


def _refuse_lake(folder: AnyPath) -> None:
    """Refuse a folder whose log says which files still belong to the table; reading all would give deleted rows too."""
    if (folder / "_delta_log").is_dir():
        raise DataError(
            f"{folder} is a Delta table; install its reader (pip install deltalake) and give it to "
            "`ss4rec data prepare --source`, or write the table as Parquet"
        )
    metadata = folder / "metadata"
    if metadata.is_dir() and any(found.name.endswith(".metadata.json") for found in metadata.iterdir()):
        raise DataError(
            f"{folder} is an Iceberg table; give it as iceberg://CATALOG/NAMESPACE.TABLE, or write it as Parquet"
        )


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
