"""Delta and Iceberg tables through Ray's readers, which know which files of the folder belong to the table today."""

from __future__ import annotations

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


def lake_kind(source: str) -> str | None:
    """Return `delta` or `iceberg` if a source is such a table, else None."""
    if source.startswith(ICEBERG):
        return "iceberg"
    return "delta" if (to_path(source) / "_delta_log").is_dir() else None


def read_lake(source: str, options: TableOptions) -> ray.data.Dataset:
    """Return a table as a dataset of its columns of ratings; Ray must be running.

    Raises:
        DataError: if the package that reads it is missing, or the table cannot be read.
    """
    import ray.data

    kind = lake_kind(source)
    try:
        if kind == "delta":
            dataset = ray.data.read_delta(source)
        else:
            catalog, _, name = source.removeprefix(ICEBERG).partition("/")
            if not name:
                raise DataError(f"{source} names no table; write iceberg://CATALOG/NAMESPACE.TABLE")
            dataset = ray.data.read_iceberg(table_identifier=name, catalog_kwargs={"name": catalog})
        names = list(dataset.schema().names)
    except ImportError:
        package = "deltalake" if kind == "delta" else "pyiceberg"
        raise DataError(f"{source} is a table of {kind}; install its reader: pip install {package}") from None
    except DataError:
        raise
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source} cannot be read as a table of {kind}: {message[:300]}") from None
    columns = choose_columns(names, options.columns, source)
    selected: ray.data.Dataset = dataset.select_columns(list(dict.fromkeys(columns.values())))
    return selected


def lake_name(source: str) -> str:
    """Return the last part of a table's name."""
    return PurePosixPath(source.rstrip("/")).name.rpartition(".")[2]
