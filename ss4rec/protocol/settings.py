"""An evaluation protocol as data: frozen, typed, the same JSON in a run's configuration, its folder and its results.

A protocol says which events train a model, which choose it and which test it. What it means for one prepared folder is
worked out by `ss4rec.protocol.plan`; named protocols are in `ss4rec.protocol.named`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from ss4rec.io.moments import last_second

Kind = Literal["leave_one_out", "global_time"]
TargetChoice = Literal["last", "successive", "random", "first"]
ValidationKind = Literal["time", "user", "last_train_item"]

ONLY_GLOBAL_TIME = (
    "cut", "targets", "validation", "validation_quantile", "validation_users", "validation_targets", "core",
    "refit", "min_history", "seed",
)  # fmt: skip
"""Fields that mean nothing for leave-one-out, which refuses other values than the defaults."""
ONLY_LEAVE_ONE_OUT = ("held_out_users",)
"""Fields that mean nothing for a cut in time, which refuses other values than the defaults."""
ONLY_TEST = ("name", "targets", "min_history", "max_history", "seen", "target_time")
"""Fields that say what is ranked and shown in a test, and nothing about what a model was trained on."""


class Protocol(BaseModel):
    """Which events train, which choose the model and which test it. The default is leave-one-out."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    name: str = "leave-one-out"
    """What tables call it; says nothing about how it works."""
    kind: Kind = "leave_one_out"
    """`leave_one_out`: each user's last event tests and the one before it validates. `global_time`: one moment for all
    users, `cut`; events after it test."""
    held_out_users: PositiveInt | None = None
    """`leave_one_out`: only so many users, drawn by a hash of their source ids, have their last two events held out; of
    all others every event trains. For a model that will be used: it learns the latest events too. None: all users."""
    cut: float | int | str | None = None
    """`global_time`: last moment of training. Between 0 and 1 it is a quantile of all events' times; otherwise a date
    (the whole day is past), an ISO time, or unix seconds."""
    targets: TargetChoice = "last"
    """`global_time`: which of a user's events after the cut are ranked: the last, all of them one after the other
    (`successive`), one at random, or the first."""
    validation: ValidationKind = "time"
    """`global_time`: what chooses the model. `time`: events after a second, earlier cut. `user`: users who are left out
    of training. `last_train_item`: each user's last event up to the cut. None of these events trains."""
    validation_quantile: float = Field(default=0.9, gt=0.0, lt=1.0)
    """`validation=time`: the earlier cut, as a quantile of the times of the events up to the cut."""
    validation_users: PositiveInt = 1024
    """`validation=user`: how many users are left out of training."""
    validation_targets: TargetChoice = "last"
    """`validation=time` and `user`: which of a user's validation events are ranked."""
    repeats: Literal["keep", "drop"] = "keep"
    """`drop`: an event on the same item as the user's event before it is left out."""
    k_core: NonNegativeInt = 0
    """Each user and each item has at least this many events; 0: no filter beyond that of the prepared folder."""
    core: Literal["before", "after"] = "before"
    """`before`: the k-core is taken over all events, before the cut (common, but it looks at the future). `after`: over
    the events up to the cut only."""
    ties: Literal["prepared", "file", "hash"] = "prepared"
    """Order of a user's events of one second: that of the prepared folder; that of the file (a folder that was prepared
    with --ties hash is refused); or that of a fixed hash, which gives nothing away."""
    refit: bool = False
    """`global_time`: all events up to the cut train, those of validation too. `ss4rec train` first finds the best
    number of epochs without them (in RUN/choose) and then trains as many with them."""
    min_history: PositiveInt = 1
    """`global_time`: events that a user must have before an event that is ranked."""
    max_history: PositiveInt | None = None
    """The most events of a history that the model sees, if fewer than `data.max_len`."""
    seen: Literal["kept", "excluded"] = "kept"
    """Whether items of the history stay in the ranking; validation chooses by it, and tables show it first."""
    target_time: Literal["known", "unknown"] = "known"
    """Whether the model may use the time of the event that is ranked; validation chooses by it, tables show it
    first."""
    seed: NonNegativeInt = 2020
    """Seed of `random` targets and of `validation=user`."""

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        """Refuse fields that are of another kind of protocol."""
        if self.kind == "leave_one_out":
            changed = [name for name in ONLY_GLOBAL_TIME if getattr(self, name) != _default(name)]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)}: only for kind global_time; begin with --protocol time-to-split, or set "
                    "protocol.kind=global_time and protocol.cut"
                )
            return self
        changed = [name for name in ONLY_LEAVE_ONE_OUT if getattr(self, name) != _default(name)]
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: only for kind leave_one_out; validation=user holds out users of a cut in time"
            )
        if self.cut is None:
            raise ValueError(
                "kind global_time needs a cut: a quantile such as 0.9, or a date such as 2000-11-30"
            )
        cut_moment(self.cut)
        return self

    @property
    def quantile(self) -> float | None:
        """The cut as a quantile of all events' times, if it is one."""
        return float(self.cut) if isinstance(self.cut, float) else None

    def training(self) -> dict[str, Any]:
        """Return the fields that decide what a model is trained on and chosen by, as plain JSON values.

        Two protocols that agree on them may test one and the same run.
        """
        return self.model_dump(mode="json", exclude=set(ONLY_TEST))


def cut_moment(cut: float | int | str | None) -> int | None:
    """Return a cut as unix seconds; None if it is a quantile.

    Raises:
        ValueError: if it is neither a quantile between 0 and 1 nor a moment.
    """
    if isinstance(cut, float):
        if not 0.0 < cut < 1.0:
            raise ValueError(f"cut {cut} is no quantile; write a number between 0 and 1, or a date")
        return None
    try:
        return last_second(str(cut))
    except ValueError:
        raise ValueError(
            f"cut {cut!r} is no quantile, date, ISO time or unix time; write 0.9 or 2000-11-30"
        ) from None


def _default(name: str) -> Any:
    return Protocol.model_fields[name].default
