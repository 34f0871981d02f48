"""The manifest of a prepared folder: what is in it, where it came from, and the checksum of every file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from ss4rec.errors import DataError
from ss4rec.io.atomic import sha256_of, write_whole
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import read_json

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
AGAIN = "copy the folder again or run `ss4rec data prepare` again"
"""What to do about a damaged folder; the end of a sentence."""
Count = Annotated[int, Field(gt=0, lt=2**31)]
"""Users and items are int32 in the tables."""


class Record(BaseModel):
    """A frozen part of the manifest; unknown fields are refused."""

    # Nobody reads descriptions of these fields, and taking them from the source costs each process 20 ms.
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(Record):
    """Size and checksum of one file."""

    bytes: NonNegativeInt
    """Size in bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the content, 64 hex digits."""


class ShardRecord(FileRecord):
    """One shard of user sequences."""

    name: Annotated[str, Field(pattern=r"^shards/part-\d{5,9}\.parquet$")]
    """Path relative to the prepared folder, as in `shards/part-00000.parquet`; no other form, so none can climb out."""
    rows: PositiveInt
    """Users in the shard."""
    events: PositiveInt
    """Events of these users."""


class SourceRecord(FileRecord):
    """Where the rows came from."""

    name: str
    """Last part of the source's path; never the whole path, so that a folder has the same bytes anywhere."""
    layout: str
    """Name of the layout that the reader found."""
    rows: PositiveInt
    """Rows read, before any filter."""


class Filters(Record):
    """What was asked to be left out."""

    k_core: NonNegativeInt
    """Every user and every item has at least this many interactions; 0 keeps all."""
    ties: Literal["hash"] | None = None
    """`hash`: events of one user and second are in the order of a hash (`ss4rec.data.ties`); None: in that of
    the file, and then the field is not written."""
    cut_s: NonNegativeInt | None = None
    """Last second that was kept (`ss4rec data split`); None keeps all, and then the field is not written."""


Kind = Literal["categorical", "multi", "number", "text", "vector"]


class Feature(Record):
    """What a column of features means."""

    name: str
    """As in the file that it came from."""
    kind: Kind
    """How its numbers are read; see `ss4rec.data.prepared.features`."""
    values: tuple[str, ...] | None = None
    """Meaning of the codes 1, 2, ... of a categorical or multi-valued column."""
    center: FiniteFloat | None = None
    """Median of a number."""
    scale: FiniteFloat | None = None
    """Half the distance of the quartiles of a number (1 if it is 0)."""
    size: PositiveInt | None = None
    """Buckets of a text, or dimensions of a vector."""


class EventTargets(Record):
    """Which events are wanted: others are what a user did on the way, and never a target."""

    column: str
    """Column about the event that says what kind it is."""
    values: tuple[str, ...]
    """Kinds that are targets."""


class Manifest(Record):
    """The content of `manifest.json`."""

    format_version: Literal[1] = 1
    """Version of the folder format."""
    name: str
    """Name of the data set."""
    users: Count
    """Users kept, U; their indices are 0..U-1."""
    items: Count
    """Items kept, I; their indices are 1..I, 0 is padding."""
    interactions: PositiveInt
    """Events kept, over all users."""
    rows_dropped: dict[str, NonNegativeInt]
    """Rows left out, by reason; rows read = interactions + all of these + those in quarantine."""
    quarantined: dict[str, PositiveInt] = {}
    """Rows that cannot be used, by reason; they lie in `quarantine.parquet`."""
    first_time_s: NonNegativeInt
    """Earliest event, unix seconds."""
    last_time_s: NonNegativeInt
    """Latest event, unix seconds."""
    training_gaps: NonNegativeInt
    """Gaps between consecutive training events of a user (all but the last two events)."""
    zero_gaps: NonNegativeInt
    """How many training gaps are 0 seconds."""
    median_gap_s: FiniteFloat
    """Median training gap in seconds; 0 if there is none."""
    mean_length: FiniteFloat
    """Mean events of a user."""
    median_length: FiniteFloat
    """Median events of a user."""
    p90_length: FiniteFloat
    """90th percentile (linear) of the events of a user."""
    max_length: PositiveInt
    """Events of the longest user."""
    source: SourceRecord
    """Where the rows came from."""
    filters: Filters
    """What was asked to be left out."""
    profile_values: tuple[str, ...] | None = None
    """Meaning of the codes 1, 2, ... in `profiles.parquet`, as in `gender=F`; not written if there is no such file."""
    features: dict[Literal["items", "users"], tuple[Feature, ...]] | None = None
    """Meaning of the columns `feature.NAME` of `items.parquet`, and names of the columns about users that were brought
    along (`profile_values` has their values); not written if there are none."""
    context: tuple[Feature, ...] | None = None
    """Meaning of the columns `context.NAME` of shards; not written if there are none."""
    targets: EventTargets | None = None
    """Which events are targets; not written if all are."""
    columns: dict[str, dict[str, str]]
    """Arrow type of every column, by table: `items`, `users`, `shards`."""
    shards: tuple[ShardRecord, ...]
    """The shards, in user order."""
    files: dict[Annotated[str, Field(pattern=r"^(items|users|quarantine|profiles)\.parquet$")], FileRecord]
    """`items.parquet` and `users.parquet`; `quarantine.parquet` if any row is in quarantine; `profiles.parquet` if the
    source describes users."""

    @classmethod
    def load(cls, folder: AnyPath) -> Manifest:
        """Read the manifest of a prepared folder.

        Raises:
            DataError: if it is missing, is not a manifest, or has another format version.
        """
        path = folder / MANIFEST_NAME
        try:
            raw = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(f"{folder} is no prepared folder: it has no {MANIFEST_NAME}; {AGAIN}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not JSON ({error}); {AGAIN}") from None
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {AGAIN}"
            )
        try:
            manifest = cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path} is damaged: {field}: {first['msg']}; {AGAIN}") from None
        manifest._check_sums(path)
        return manifest

    def _check_sums(self, path: AnyPath) -> None:
        """Refuse counts that contradict one another: memory is taken by them before any table is read."""
        sums = {
            "users": (self.users, sum(shard.rows for shard in self.shards)),
            "interactions": (self.interactions, sum(shard.events for shard in self.shards)),
            "tables": (2, len(self.files.keys() - {"quarantine.parquet", "profiles.parquet"})),
            "tables of profiles": (
                int(self.profile_values is not None),
                int("profiles.parquet" in self.files),
            ),
            "different shards": (len(self.shards), len({shard.name for shard in self.shards})),
        }
        for what, (said, found) in sums.items():
            if said != found:
                raise DataError(
                    f"{path} is damaged: it says {said:,} {what}, its shards and files {found:,}; {AGAIN}"
                )

    def save(self, folder: AnyPath) -> None:
        """Write `manifest.json` into `folder`."""
        write_whole(folder / MANIFEST_NAME, self.to_json().encode())

    def to_json(self) -> str:
        """Return the content of `manifest.json`."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    def records(self) -> list[tuple[str, FileRecord]]:
        """Return every file of the folder with its record, the tables first."""
        return [*self.files.items(), *((shard.name, shard) for shard in self.shards)]


def file_record(path: AnyPath) -> FileRecord:
    """Return size and checksum of `path`."""
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))
