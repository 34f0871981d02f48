"""What a source says about users (gender, age, occupation, region): one row of codes a user beside the shards.

`profiles.parquet` has `user` and `codes`, a list with one code for each column of the source; the manifest's
`profile_values[code - 1]` says what a code means, as in `gender=F`. 0 is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.ids import look_up
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import PROFILES_NAME, PROFILES_SCHEMA, read_profile_table
from ss4rec.data.sources.rows import UserProfiles
from ss4rec.errors import ConfigError, DataError, UsageError
from ss4rec.io.paths import AnyPath

MAX_VALUES = 255
"""Most different values; the rarest of more are unknown. `ss4rec.model.inputs` has a vector for each code."""


def profiles_table(
    user_ids: pa.Array, known: UserProfiles | None
) -> tuple[pa.Table | None, tuple[str, ...] | None]:
    """Return `profiles.parquet` and the meaning of its codes; None for a source that says nothing about users.

    Args:
        user_ids: source id of each user index.
        known: what the source says.
    """
    if known is None:
        return None, None
    places = look_up(user_ids, known.source_id)
    texts = [
        [
            None if value is None else f"{name}={value}"
            for value in known.values[name].take(places).to_pylist()
        ]
        for name in known.values.column_names
    ]
    counts = Counter(text for column in texts for text in column if text is not None)
    kept = sorted(
        text for text, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_VALUES]
    )
    codes = {text: code for code, text in enumerate(kept, start=1)}
    codes_UF = np.array([[codes.get(text, 0) for text in column] for column in texts], np.int32).T  # type: ignore[arg-type]
    offsets = np.arange(len(user_ids) + 1, dtype=np.int32) * codes_UF.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes_UF.ravel()))
    users = pa.array(np.arange(len(user_ids)), pa.int32())
    return pa.Table.from_arrays([users, lists], schema=PROFILES_SCHEMA), tuple(kept)


def read_profiles(folder: AnyPath, manifest: Manifest) -> npt.NDArray[np.int32] | None:
    """Return the codes of all users, `[U, F]`, or None where the folder has none.

    Raises:
        DataError: if the table is damaged or does not belong to the manifest.
    """
    values = manifest.profile_values
    if values is None:
        return None
    table = read_profile_table(folder)
    codes = table["codes"].combine_chunks()
    flat = codes.flatten().to_numpy()
    users, columns = table.num_rows, len(flat) // max(table.num_rows, 1)
    even = users == manifest.users and np.array_equal(
        codes.offsets.to_numpy(), np.arange(users + 1) * columns
    )
    if not even or flat.min(initial=0) < 0 or flat.max(initial=0) > len(values):
        raise DataError(
            f"{folder / PROFILES_NAME} is not what manifest.json says: {users:,} users, codes {flat.min(initial=0)} to "
            f"{flat.max(initial=0)} of {len(values)}; copy the folder again or run `ss4rec data prepare` again"
        )
    return np.asarray(flat.reshape(users, columns))


def profile_codes(profile: Mapping[str, object], values: Sequence[str] | None) -> list[int]:
    """Return the codes of one person's profile, as in `{"gender": "F", "age": 25}`.

    Raises:
        UsageError: for a value that training did not know, saying which it did.
    """
    codes = {text: code for code, text in enumerate(values or (), start=1)}
    wanted = [f"{name}={value}" for name, value in profile.items()]
    unknown = [text for text in wanted if text not in codes]
    if unknown:
        raise UsageError(
            f"the run knows nobody with {', '.join(unknown)}; it knows {', '.join(codes) or 'no profiles'}; "
            "leave unknown values out"
        )
    return [codes[text] for text in wanted]


def chosen_columns(asked: str | tuple[str, ...], manifest: Manifest) -> tuple[str, ...]:
    """Return the columns of profiles that `model.user_features` means for a folder.

    Raises:
        ConfigError: for a name that the folder does not have.
    """
    known = dict.fromkeys(text.partition("=")[0] for text in manifest.profile_values or ())
    if isinstance(asked, str):
        brought = (manifest.features or {}).get("users", ())
        return () if asked == "none" else tuple(f.name for f in brought if f.name in known)
    wrong = [name for name in asked if name not in known]
    if wrong:
        raise ConfigError(
            f"model.user_features has {', '.join(wrong)}, and {manifest.name} says of users: "
            f"{', '.join(known) or 'nothing'}; name some of these, or prepare the data with --user-features"
        )
    return asked


def codes_of_columns(names: Sequence[str], values: Sequence[str]) -> tuple[int, ...]:
    """Return the codes that belong to some columns, from `Manifest.profile_values`."""
    return tuple(code for code, text in enumerate(values, start=1) if text.partition("=")[0] in names)


def profile_columns(folder: AnyPath, manifest: Manifest) -> dict[str, list[str | None]]:
    """Return what a prepared folder says about its users, a value per user by name of the column; empty if nothing."""
    codes_UF = read_profiles(folder, manifest)
    if codes_UF is None or manifest.profile_values is None:
        return {}
    texts = np.array(["", *manifest.profile_values])[codes_UF]
    columns: dict[str, list[str | None]] = {}
    for column_U in texts.T:
        name = next((text.partition("=")[0] for text in column_U if text), "")
        if name:
            columns[name] = [text.partition("=")[2] if text else None for text in column_U]
    return columns


def read_back(folder: AnyPath, manifest: Manifest, user_ids: pa.Array) -> UserProfiles | None:
    """Return what a prepared folder says about its users in the form of a source."""
    if manifest.profile_values is None:
        return None
    columns = profile_columns(folder, manifest)
    return UserProfiles(
        user_ids, pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))
    )
