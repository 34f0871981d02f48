"""What a job of recommendations is asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from ss4rec.errors import UsageError

Layout = Literal["lists", "pairs"]
Format = Literal["parquet", "csv", "jsonl"]
POOL_LISTS, POOL_MIN = 5, 200
"""Items from which re-ranking chooses: so many times k, at least so many."""


class RecommendOptions(BaseModel):
    """Everything but the model and the data that decides what is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    k: PositiveInt = 100
    """Items per list; a list is shorter where fewer are left."""
    seen: Literal["excluded", "kept"] = "excluded"
    """Whether items of the history may be recommended again."""
    until: Literal["end", "test", "valid"] = "end"
    """Where histories end: with the last event, or before each event that an evaluation ranks."""
    at_s: NonNegativeInt | None = None
    """Moment of asking, unix seconds: later events are not used. None: for each user the median training gap after
    the last event."""
    where: str | None = None
    """Condition that candidates fulfil."""
    limits: dict[str, PositiveInt] = {}
    """Most items of one list that share a value of a column, by column."""
    rerank: Literal["mmr", "calibrated"] | None = None
    """What lists are made by beside the score."""
    weight: float = Field(default=0.0, ge=0, le=1)
    """How much of that: 0 is the score alone, 1 the other goal alone."""
    by: str = "genres"
    """Column whose shares a calibrated list matches."""
    pool: PositiveInt | None = None
    """Best items from which re-ranking chooses; None: `POOL_LISTS` times k, at least `POOL_MIN`."""
    layout: Layout = "lists"
    """A row per list, or a row per item of a list."""
    format: Format = "parquet"
    """Of the files."""

    @classmethod
    def of(cls, **fields: object) -> RecommendOptions:
        """Check what a user asks for.

        Raises:
            UsageError: for a value out of range, or options that contradict one another.
        """
        try:
            options = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{name} is {first['input']!r}: {first['msg']}") from None
        if options.at_s is not None and options.until != "end":
            raise UsageError(
                f"--until {options.until} asks at the moment of each held-out event; leave --at out"
            )
        if options.format == "csv" and options.layout == "lists":
            raise UsageError(
                "CSV has no lists; give --layout pairs for a row per item, or --format parquet or jsonl"
            )
        return options

    @property
    def pool_size(self) -> int:
        """Best items from which re-ranking chooses."""
        return max(self.pool or max(POOL_LISTS * self.k, POOL_MIN), self.k)
