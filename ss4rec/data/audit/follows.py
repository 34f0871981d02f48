"""What follows from an audit: how to prepare, which protocol, which configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ss4rec.auto.choose import MANY_REPEATS
from ss4rec.auto.explain import headline
from ss4rec.auto.resolve import Auto
from ss4rec.data.audit.facts import Facts
from ss4rec.data.audit.lights import EQUAL, FUTURE, NEXT_DAY, ORDER, TWINS, Light
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.settings import Protocol

TIME_SPLIT = "time-to-split"


@dataclass(frozen=True)
class Choice:
    """One choice, and why."""

    field: str
    """A field of the protocol, or an option of `ss4rec data prepare`."""
    value: str
    reason: str


def choices(facts: Facts, lights: list[Light]) -> list[Choice]:
    """Return what the audit advises for preparing and for the protocol."""
    found: list[Choice] = []
    division, day, ties = facts.division, facts.next_day, facts.ties
    in_time = division.future_training > FUTURE.warn or day.cold_items > NEXT_DAY.warn
    if division.protocol == "leave-one-out" and in_time:
        found.append(
            Choice(
                "--protocol",
                TIME_SPLIT,
                f"{division.future_training:.0%} of the training events of leave-one-out come after the target, and "
                f"{day.cold_items:.0%} of the next day's targets are new items",
            )
        )
    elif division.protocol == "leave-one-out":
        found.append(
            Choice("--protocol", "leave-one-out", "little of the training is later than the targets")
        )
    if facts.times.zero_share > EQUAL.good and ties.given_away > ORDER.good:
        found.append(
            Choice(
                "protocol.ties",
                "hash",
                f"{ties.usual_order:.0%} of frequent pairs of equal time stand in one order",
            )
        )
    if division.twins > TWINS.good:
        found.append(
            Choice("--repeats", "drop", f"{division.twins:.1%} of the targets have a copy in their history")
        )
    kept = facts.repeats.share >= MANY_REPEATS
    found.append(
        Choice(
            "protocol.seen",
            "kept" if kept else "excluded",
            f"{facts.repeats.share:.1%} of the events repeat an item: "
            + ("people come back to what they had" if kept else "a seen item is hardly ever the answer"),
        )
    )
    found.append(
        Choice(
            "protocol.target_time",
            "unknown",
            "a service does not know when the next event will be; `known` is for questions about a given moment",
        )
    )
    cold = any(
        light.topic in ("cold items of the split", "next day") and light.tone == "bad" for light in lights
    )
    if cold and not facts.item_columns:
        found.append(Choice("--item-features", "FILE", "the only way to rank an item that never trained"))
    elif cold:
        found.append(
            Choice(
                "model.item_features",
                "auto",
                f"{', '.join(facts.item_columns)} can rank items that never trained",
            )
        )
    return found


def configuration(
    folder: PreparedFolder, protocol: Protocol, gpu: bool
) -> tuple[list[str], Mapping[str, Any]]:
    """Return what `--preset auto` makes of the data under a protocol: lines, and the fields it sets."""
    config, decisions, facts, machine = Auto(protocol, {}).decide(folder, gpu)
    fields = {name: value for decision in decisions for name, value in decision.fields.items()}
    return [line.removeprefix("auto: ") for line in headline(facts, machine, config)], fields
