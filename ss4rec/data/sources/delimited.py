"""Reading whole files of delimited text (catalogues of items, headers), so that errors name the file and the row."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.csv as pacsv

from ss4rec.data.sources.archive import Archive
from ss4rec.errors import DataError

UNIT_SEPARATOR = b"\x1f"
"""Stands for `::`, since CSV readers split at one byte."""


def read_delimited(
    archive: Archive,
    name: str,
    delimiter: str,
    types: Mapping[str, pa.DataType | None],
    *,
    names: list[str] | None = None,
    encoding: str = "utf8",
    quotes: bool = False,
) -> pa.Table:
    """Read the columns named in `types` (None: type from the values) from a delimited file.

    Args:
        archive: the source.
        name: file in it.
        delimiter: one character, or `::`.
        types: columns to read.
        names: all column names of a file without a header.
        encoding: of the text.
        quotes: whether fields may stand in double quotes.

    Raises:
        DataError: naming the file, and the row and value if there is one.
    """

    def read(use_threads: bool) -> pa.Table:
        with archive.open(name) as stream:
            text = stream.read()
            return pacsv.read_csv(
                pa.BufferReader(text.replace(b"::", UNIT_SEPARATOR) if delimiter == "::" else text),
                pacsv.ReadOptions(column_names=names, encoding=encoding, use_threads=use_threads),
                pacsv.ParseOptions(
                    delimiter=UNIT_SEPARATOR.decode() if delimiter == "::" else delimiter,
                    quote_char='"' if quotes else False,
                ),
                pacsv.ConvertOptions(
                    column_types={column: kind for column, kind in types.items() if kind},
                    include_columns=list(types),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )

    try:
        try:
            return read(use_threads=True)
        except pa.ArrowInvalid:
            # Only the serial reader knows row numbers: read again up to the error.
            return read(use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{archive.where(name)} cannot be read: {message}; repair the file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.where(name)} is damaged ({error}); download the archive again") from None


def header(archive: Archive, name: str, delimiter: str) -> tuple[list[str], int]:
    """Return the column names in the first line of a file, and the bytes of that line.

    Raises:
        DataError: if the file is empty or its first line is no UTF-8.
    """
    try:
        with archive.open(name) as stream:
            raw = stream.readline()
            line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(
            f"{archive.where(name)}: the header is not UTF-8; convert the file to UTF-8"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.where(name)} is damaged ({error}); download the archive again") from None
    if not line:
        raise DataError(f"{archive.where(name)} is empty; it needs a header and rows")
    return next(csv.reader([line], delimiter=delimiter)), len(raw)
