"""Reading whole files of delimited text (catalogues of items, headers), so that errors name the file and the row."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.csv as pacsv

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.head import first_bytes, look
from ss4rec.data.sources.packed import damage_named
from ss4rec.data.sources.quotes import refuse_quotes_of_file
from ss4rec.errors import DataError

UNIT_SEPARATOR = b"\x1f"
"""Stands for delimiters of several bytes, since CSV readers split at one byte."""


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
        DataError: naming the file, and the row and value if there is one; also where quotes do not say where a field
            ends.
    """

    def read(use_threads: bool) -> pa.Table:
        with archive.open(name) as stream:
            text = stream.read()
            if quotes:
                refuse_quotes_of_file(text, delimiter.encode(), archive.where(name))
            return pacsv.read_csv(
                pa.BufferReader(text.replace(b"::", UNIT_SEPARATOR) if delimiter == "::" else text),
                pacsv.ReadOptions(column_names=names, encoding=encoding, use_threads=use_threads),
                pacsv.ParseOptions(
                    delimiter=UNIT_SEPARATOR.decode() if delimiter == "::" else delimiter,
                    quote_char='"' if quotes else False,
                    newlines_in_values=quotes,
                ),
                pacsv.ConvertOptions(
                    column_types={column: kind for column, kind in types.items() if kind},
                    include_columns=list(types),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )

    try:
        with damage_named(archive.where(name)):
            try:
                return read(use_threads=True)
            except pa.ArrowInvalid:
                # Only the serial reader knows row numbers: read again up to the error.
                return read(use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{archive.where(name)} cannot be read: {message}; repair the file") from None


def header(archive: Archive, name: str, delimiter: str) -> tuple[list[str], int]:
    """Return the column names in the first row of a file, stripped, and the bytes before the next row.

    Raises:
        DataError: if the file is empty or its first row is no UTF-8.
    """
    data = first_bytes(archive, name)
    head = look(data, delimiter)
    start = head.starts[1] if len(head.starts) > 1 else len(data)
    return [column.strip() for column in head.rows[0]], start
