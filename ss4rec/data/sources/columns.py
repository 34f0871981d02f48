"""Which column plays which role: the one that was asked for, by name or by number, or the first recognised name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ss4rec.data.sources.parts import Part, hive_values
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.errors import DataError

ROLES = ("user", "item", "time", "rating")
GUESSES = {
    "user": ("user_id", "user", "uid", "customer_id", "customer", "reviewer_id", "session_id"),
    "item": ("item_id", "item", "iid", "movie_id", "product_id", "product", "parent_asin", "asin", "sku"),
    "time": ("timestamp", "time", "ts", "unix_time", "unix_review_time", "event_time", "datetime", "date"),
    "rating": ("rating", "score", "stars", "overall"),
}
"""Column names that are recognised for each role, best first; case and underscores do not matter."""


def choose_columns(
    names: Sequence[str], asked: Mapping[str, str], where: str, context: Sequence[str] = ()
) -> dict[str, str]:
    """Return the column of each role: the one asked for, else the first recognised name.

    Args:
        names: the columns.
        asked: name, or number from 1, of the column of a role.
        where: what messages call the file.
        context: columns about the event, by name or number; each becomes a role of its own.

    Raises:
        DataError: if a column that was asked for does not exist, or none is found for user, item or time.
    """
    plain = {_plain(name): name for name in reversed(names)}
    chosen: dict[str, str] = {}
    for role in ROLES:
        guesses = [plain[key] for guess in GUESSES[role] if (key := _plain(guess)) in plain]
        if role in asked:
            chosen[role] = _asked(names, asked[role], where)
        elif guesses:
            chosen[role] = guesses[0]
        elif role != "rating":
            raise DataError(
                f"{where} has the columns {', '.join(names)}; none is known to be the {role}: "
                f"name it with --columns {role}=..{_headerless(names)}"
            )
    for name in context:
        column = _asked(names, name, where)
        taken = [role for role, other in chosen.items() if other == column and not role.startswith(CONTEXT)]
        if taken:
            raise DataError(
                f"{where}: column {column} is read as {taken[0]} already; leave it out of --context"
            )
        chosen[CONTEXT + _bare(column)] = column
    return chosen


def is_known(names: Sequence[str], more: Sequence[str], asked: Mapping[str, str]) -> bool:
    """Return whether a header has the columns of user, item and time, with those that stand elsewhere."""
    try:
        roles = choose_columns([*names, *more], asked, "")
    except DataError:
        return False
    return sum(column in names for column in roles.values()) >= 2


def twice_named(roles: Mapping[str, str], here: Collection[str], files: Sequence[str]) -> tuple[str, ...]:
    """Return a note where a column that is read stands in the files and also in the names of their folders."""
    folders = hive_values(files[0])
    both = [column for column in roles.values() if column in here and column in folders]
    if not both:
        return ()
    return (f"{', '.join(both)}: the values in the files are read, not those in the names of folders",)


def role_columns(
    roles: Mapping[str, str], here: Collection[str], files: Sequence[str]
) -> tuple[dict[str, str], tuple[Part, ...]]:
    """Return the roles whose columns stand in the files, and the files with the values in their folders' names.

    Raises:
        DataError: if a file's folders lack a column that those of the first have.
    """
    inside = {role: column for role, column in roles.items() if column in here}
    outside = {role: column for role, column in roles.items() if column not in here}
    parts = []
    for file in files:
        values = hive_values(file)
        missing = next((column for column in outside.values() if column not in values), None)
        if missing:
            raise DataError(
                f"{file} lies in no folder named as in {missing}=.., unlike other files of this table"
            )
        parts.append(Part(file, values=tuple((role, values[column]) for role, column in outside.items())))
    return inside, tuple(parts)


def _asked(names: Sequence[str], column: str, where: str) -> str:
    """Return the column that was asked for by name or number."""
    if column in names:
        return column
    if column.isascii() and column.isdigit() and 1 <= int(column) <= len(names):
        return names[int(column) - 1]
    if column.isascii() and column.isdigit():
        raise DataError(f"{where} has {len(names)} columns; there is no column {column}: {', '.join(names)}")
    raise DataError(f"{where} has no column {column!r}; its columns are {', '.join(names)}")


def _plain(name: str) -> str:
    """Return a name as it is compared: RecBole's types, as in `user_id:token`, do not count either."""
    return _bare(name).replace("_", "").lower()


def _bare(name: str) -> str:
    """Return a name without RecBole's type."""
    return name.partition(":")[0]


def _headerless(names: Sequence[str]) -> str:
    """Return advice for a file whose first row seems to be data."""
    if not any(name.strip().lstrip("-").replace(".", "", 1).isdigit() for name in names):
        return ""
    return "; if the file has no header, number the columns: --columns user=1,item=2,time=3"
