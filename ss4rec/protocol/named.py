"""Named protocols, and what each of them does in words."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from pathlib import Path

from ss4rec.errors import ConfigError
from ss4rec.io.moments import last_second
from ss4rec.io.untrusted import read_json
from ss4rec.protocol.settings import Protocol, cut_moment

NAMED: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(),
        Protocol(
            name="time-to-split",
            kind="global_time",
            cut=0.9,
            repeats="drop",
            k_core=5,
            ties="file",
            seen="excluded",
            target_time="unknown",
        ),
        Protocol(name="recbole", ties="file", k_core=5, target_time="unknown"),
        Protocol(name="s3rec", ties="file", k_core=5, seen="excluded", target_time="unknown"),
    )
}
"""`time-to-split`: RecSys 2025, arXiv 2507.16289. `recbole`: RecBole's defaults for sequential models (leave-one-out,
full ranking, history not masked). `s3rec`: the full ranking of S3-Rec (arXiv 2008.07873) and its successors."""


def named(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: if there is none of that name; lists all and says which is near.
    """
    if name not in NAMED:
        near = difflib.get_close_matches(name, NAMED, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ";"
        raise ConfigError(f"no protocol {name!r}{hint} protocols: {', '.join(NAMED)}, or a JSON file")
    return NAMED[name]


def protocol_of(text: str) -> Protocol:
    """Return the protocol of a name, or of a JSON file: `protocol.json` or `config.json` of a run.

    Raises:
        ConfigError: if there is none, or its values are refused.
    """
    path = Path(text.removeprefix("@"))
    if not (text.startswith("@") or text.endswith(".json")):
        return named(text)
    try:
        raw = read_json(path)
        return Protocol.model_validate(raw.get("protocol", raw) if isinstance(raw, dict) else raw)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--protocol {text} is no protocol: {str(error).splitlines()[0]}") from None


def protocol_or_cut(text: str) -> Protocol:
    """Return the protocol of a name or a file; a date, an ISO time or unix seconds make one cut in time there.

    Raises:
        ConfigError: as `protocol_of`.
    """
    try:
        last_second(text)
    except ValueError:
        return protocol_of(text)
    return Protocol(name=f"cut {text}", kind="global_time", cut=text)


def describe(protocol: Protocol) -> str:
    """Say in a few sentences what a protocol does."""
    parts = _global_time(protocol) if protocol.kind == "global_time" else _leave_one_out(protocol)
    return " ".join([*_filters(protocol), *parts, *_ranking(protocol)])


def _filters(protocol: Protocol) -> list[str]:
    """Say which events are left out before anything else."""
    found = []
    if protocol.k_core:
        over = "all events" if protocol.core == "before" else "the events up to the cut"
        found.append(
            f"Users and items with fewer than {protocol.k_core} events are left out, counted over {over}."
        )
    if protocol.repeats == "drop":
        found.append("Immediate repeats of an item are left out.")
    if protocol.ties != "prepared":
        what = (
            "keep the order of the file"
            if protocol.ties == "file"
            else "are put in the order of a fixed hash"
        )
        found.append(f"Events of one second {what}.")
    return found


def _leave_one_out(protocol: Protocol) -> list[str]:
    whose = "Each user's last event is"
    if protocol.held_out_users is not None:
        whose = f"The last event of each of {protocol.held_out_users:,} users is"
    return [
        f"{whose} the test, the one before it chooses the model, all others train it.",
        "Training has events that are later than some tests.",
    ]


def _global_time(protocol: Protocol) -> list[str]:
    """Return the sentences that describe a protocol with one cut in time."""
    moment = cut_moment(protocol.cut)
    when = (
        f"the {protocol.quantile:g} quantile of all times"
        if moment is None
        else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
    chosen = {
        "last": "the last event of each user",
        "successive": "every event of each user, one after the other",
        "random": "one random event of each user",
        "first": "the first event of each user",
    }
    ranked = chosen[protocol.validation_targets]
    chooses = {
        "time": f"{ranked} after the {protocol.validation_quantile:g} quantile of the times up to the cut",
        "user": f"{ranked} of {protocol.validation_users:,} users who do not train",
        "last_train_item": "each user's last event up to the cut",
    }[protocol.validation]
    training = "trains the model of the best epoch's length" if protocol.refit else "trains no model"
    return [
        f"One cut for all users: {when}. Users with at least two events by then train, with what they did up to it.",
        f"The model is chosen by {chooses}; this part {training}.",
        f"The test is {chosen[protocol.targets]} after the cut, from the history up to it "
        f"(at least {protocol.min_history} event{'s' * (protocol.min_history > 1)}).",
        "Items that never trained are no candidates; as targets they count as misses.",
    ]


def _ranking(protocol: Protocol) -> list[str]:
    last = f" The model sees the last {protocol.max_history} events." if protocol.max_history else ""
    return [
        f"All items are ranked; items of the history are {protocol.seen}; the time of the target is "
        f"{protocol.target_time} to the model.{last}"
    ]
