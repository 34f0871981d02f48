"""Text packed by gzip, bzip2 or Zstandard, read as a stream in bounded memory; and what first bytes give away."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa

from ss4rec.errors import DataError
from ss4rec.io.untrusted import refuse_bomb

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of what is unpacked."""
OTHER_MAGIC = {
    b"PAR1": "a Parquet file; give it the suffix .parquet",
    b"PK\x03\x04": "a zip (or an Excel workbook); unpack it (or save it as CSV) and give the file",
    b"\xfd7zXZ\x00": "packed with xz; unpack it and give the file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and give the file",
    b"Rar!": "a RAR archive; unpack it and give the file",
    b"\x04\x22\x4d\x18": "packed with lz4; unpack it and give the file",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"ORC": "an ORC file; write it as Parquet",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
}
"""First bytes of what people have and we do not read, with what to do."""
SUFFIXES = (".gz", ".bz2", ".zst", ".zstd")
"""Suffixes of packed files; what counts are the first bytes."""
OTHER_SUFFIXES = {
    ".zip": "is a zip; unpack it and give the file",
    ".tar": "is a tar archive; unpack it and give the folder",
    ".tgz": "is a tar archive; unpack it and give the folder",
    ".tar.gz": "is a tar archive; unpack it and give the folder",
    ".tar.bz2": "is a tar archive; unpack it and give the folder",
    ".tar.zst": "is a tar archive; unpack it and give the folder",
    ".xz": "is packed with xz; unpack it and give the file",
    ".7z": "is a 7z archive; unpack it and give the folder",
    ".rar": "is a RAR archive; unpack it and give the folder",
    ".xlsx": "is an Excel workbook; save it as CSV",
    ".xls": "is an Excel workbook; save it as CSV",
    ".pkl": "is a pickle, which can run programs; write it as Parquet",
    ".pickle": "is a pickle, which can run programs; write it as Parquet",
    ".feather": "is an Arrow file; write it as Parquet",
    ".arrow": "is an Arrow file; write it as Parquet",
    ".parquet.gz": "is a packed Parquet file; unpack it (Parquet packs by itself)",
    ".avro": "is an Avro file; write it as Parquet",
    ".orc": "is an ORC file; write it as Parquet",
    ".h5": "is an HDF5 file; write it as Parquet",
    ".db": "is a database; export the table as CSV",
    ".sqlite": "is a database; export the table as CSV",
}
"""What people have and we do not read, by suffix, with what to do."""
BUFFER_BYTES = 1 << 20


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Turn the errors of a damaged zip into our own.

    Raises:
        DataError: naming the file.
    """
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{where} is damaged ({error}); download the archive again") from None


def packing(stream: IO[bytes]) -> str | None:
    """Return how a stream is packed, from its first bytes, which stay unread; None if it is not."""
    head = peek(stream, 8)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def peek(stream: Any, size: int) -> bytes:
    """Return up to `size` first bytes of a buffered stream without reading them."""
    return bytes(stream.peek(size)[:size])


def bare_name(name: str) -> str:
    """Return a file's name in lower case without the suffix of its packing."""
    lower = name.lower()
    return next((lower.removesuffix(suffix) for suffix in SUFFIXES if lower.endswith(suffix)), lower)


def unreadable_kind(name: str) -> str | None:
    """Return what is to be said about a file that is not read, as in "is a tar archive; .."; None if it may be."""
    lower = name.lower()
    longest = max((suffix for suffix in OTHER_SUFFIXES if lower.endswith(suffix)), key=len, default=None)
    return OTHER_SUFFIXES[longest] if longest else None


def unpacked(stream: IO[bytes], kind: str, where: str, packed_bytes: int) -> IO[bytes]:
    """Return what a packed stream holds, as a stream from its beginning.

    Args:
        stream: the packed bytes.
        kind: as `packing` says.
        where: what messages call the file.
        packed_bytes: size of the packed file.
    """
    return io.BufferedReader(_Unpacked(stream, kind, where, packed_bytes), BUFFER_BYTES)


class _Unpacked(io.RawIOBase):
    """A packed stream as a raw stream that refuses bombs and names damage."""

    def __init__(self, stream: IO[bytes], kind: str, where: str, packed_bytes: int) -> None:
        self._stream = stream
        self._where = where
        self._packed_bytes = packed_bytes
        self._read = 0
        self._inner: Any
        if kind == "gzip":
            self._inner = gzip.GzipFile(fileobj=stream)
        elif kind == "bzip2":
            self._inner = bz2.BZ2File(stream)
        else:
            self._inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with unpacked bytes and return how many; 0 at the end.

        Raises:
            DataError: if the file is damaged, or holds far more than its packed size allows.
        """
        try:
            data = self._inner.read(len(buffer))
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{self._where} is damaged ({message}); copy or download it again") from None
        buffer[: len(data)] = data
        self._read += len(data)
        refuse_bomb(self._where, self._packed_bytes, self._read)
        return len(data)

    def close(self) -> None:
        """Close both streams."""
        if not self.closed:
            self._inner.close()
            self._stream.close()
        super().close()
