"""Delta and Iceberg tables through Ray's readers, which know which files of the folder belong to the table today."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ss4rec.data.sources.columns import choose_columns
from ss4rec.data.sources.plan_table import TableOptions
from ss4rec.errors import DataError
from ss4rec.io.paths import to_path

if TYPE_CHECKING:
    import ray.data

ICEBERG = "iceberg://"
"""Scheme of `iceberg://CATALOG/NAMESPACE.TABLE`; the catalogue is configured as pyiceberg says."""
READERS = {"delta": "deltalake", "iceberg": "pyiceberg"}
"""The package that Ray reads each kind with."""


def lake_kind(source: str) -> str | None:
    """Return `delta` or `iceberg` if a source is such a table, else None."""
    if source.startswith(ICEBERG):
        return "iceberg"
    return "delta" if (to_path(source) / "_delta_log").is_dir() else None


def check_lake(source: str) -> None:
    """Say what can be known of a table before Ray starts.

    Raises:
        DataError: if the package that reads it is missing, or its name names no table.
    """
    kind = lake_kind(source)
    if kind is not None and find_spec(READERS[kind]) is None:
        raise DataError(f"{source} is a table of {kind}; install its reader: pip install {READERS[kind]}")
    if kind == "iceberg" and not all(_iceberg_name(source)):
        raise DataError(f"{source} names no table; write iceberg://CATALOG/NAMESPACE.TABLE")


def read_lake(source: str, options: TableOptions) -> ray.data.Dataset:
    """Return a table as a dataset of its columns of ratings; Ray must be running.

    Raises:
        DataError: if the table cannot be read, and as `check_lake`.
    """
    import ray.data

    check_lake(source)
    kind = lake_kind(source)
    try:
        if kind == "delta":
            dataset = ray.data.read_delta(str(to_path(source).absolute()))
        else:
            catalog, name = _iceberg_name(source)
            dataset = ray.data.read_iceberg(table_identifier=name, catalog_kwargs={"name": catalog})
        names = list(dataset.schema().names)
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source} cannot be read as a table of {kind}: {message[:300]}") from None
    columns = choose_columns(names, options.columns, source)
    selected: ray.data.Dataset = dataset.select_columns(list(dict.fromkeys(columns.values())))
    return selected


def _iceberg_name(source: str) -> tuple[str, str]:
    """Return the catalogue and the table of an address; empty where one is missing."""
    catalog, _, name = source.removeprefix(ICEBERG).partition("/")
    return catalog, name


def lake_name(source: str) -> str:
    """Return the last part of a table's name."""
    return PurePosixPath(source.rstrip("/")).name.rpartition(".")[2]
