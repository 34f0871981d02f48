"""From what the data are to a configuration, each decision with its reason.

The rules are fitted over eleven data sets (docs/recipe.md): shops, places, films, groceries, check-ins and news. Two
numbers carry most of them: how often an item occurs (what an embedding can learn before it learns by heart) and how
long histories are (what depth and long windows can use).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ss4rec.auto.cost import fitting_batch, peak_gib
from ss4rec.auto.look import Facts
from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.item_codes import FROM_SOURCE
from ss4rec.protocol.settings import Protocol

SPARSE, DENSE = 20.0, 150.0
"""Events for each item below which everything is against learning by heart, and above which nothing has to be."""
BASE_DIM = 128
"""Width that rates are chosen for."""
SOME_REPEATS, MANY_REPEATS = 0.005, 0.02
"""Shares of repeated events: from which a model that is ranked without seen items had better not unlearn them; from
which habits are learned."""
MANY_COLD = 0.05
"""Share of validation targets whose item never trains, from which something has to rank them."""
LONG = 20.0
"""Mean events for each user from which histories count as long."""
MOST_MEMBERS = 6
"""More members than this add nothing that three seeds can show."""
CUT_SHORT = 1.2
"""Members are chosen as if there were this much more time: a member adds more than the epochs that the clock then takes
(36 of 48 epochs are as good as 48 on ML-1M: docs/recipe.md)."""
GPU_MINUTES = 4.0
"""What a run is laid out for where nobody says how long it may take."""
START_SHARE, START_S = 0.06, 8.0
"""Part of the minutes that start, choosing and testing take."""


@dataclass(frozen=True)
class Decision:
    """One decision: fields and the values they get, and why."""

    fields: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Machine:
    """What a run can use."""

    gpu: bool
    cores: int = 2
    gpu_gib: float | None = None
    """Memory of the card; None: not known here, as where a cluster's node has it."""


def choose(
    facts: Facts,
    machine: Machine,
    protocol: Protocol,
    minutes: float | None = None,
    target_time: bool | None = None,
) -> tuple[RunConfig, list[Decision]]:
    """Choose the configuration for some data on some machine.

    The same facts, machine and minutes give the same configuration; what the clock decides later is the number of
    epochs only, where the machine is slower than a third of an H100 or than two cores.

    Args:
        facts: what the data are.
        machine: where it is trained.
        protocol: how events are divided.
        minutes: time for the whole run; None: no limit, laid out for `GPU_MINUTES`.
        target_time: whether the model is told when its target happens; None: as the protocol says.
    """
    told = protocol.target_time == "known" if target_time is None else target_time
    rules = _gpu(facts, protocol, told, minutes) if machine.gpu else _cpu(facts)
    decisions = [*_always(facts, protocol, told, minutes), *rules]
    changes: dict[str, Any] = {"preset": "auto"}
    for decision in decisions:
        changes |= decision.fields
    config = override(RunConfig(protocol=protocol), changes)
    if machine.gpu and machine.gpu_gib is not None:
        config, fitted = _fit(config, facts, machine.gpu_gib)
        decisions += fitted
    return config, decisions


def _fit(config: RunConfig, facts: Facts, card_gib: float) -> tuple[RunConfig, list[Decision]]:
    """Take smaller steps where the chosen ones ask for more memory than the card has."""
    window_tokens = min(facts.per_user, 0.8 * config.data.max_len)
    batch = fitting_batch(config, facts.items, window_tokens, card_gib)
    if batch == config.train.batch_size:
        return config, []
    tokens = round(config.train.batch_size * window_tokens)
    asked = peak_gib(config, facts.items, tokens)
    fields = {"train.batch_size": batch}
    reason = f"steps of {tokens:,} events would take {asked:.1f} GiB, the card has {card_gib:.0f}"
    return override(config, fields), [Decision(fields, reason)]


def _always(facts: Facts, protocol: Protocol, told: bool, minutes: float | None) -> Iterator[Decision]:
    """Decide what neither density nor the machine changes."""
    yield Decision(
        {
            "model.gap_map": "log",
            "model.dt_init": "mamba",
            "model.shared_norm": False,
            "model.norm_eps": 1e-6,
            "optim.schedule": "cosine",
            "optim.clip_norm": 1.0,
            "optim.base_dim": BASE_DIM,
            "train.patience": 0,
        },
        "held on every data set: steps from log gaps, a norm for each layer, rates that follow the width, a cosine "
        "schedule",
    )
    yield Decision(
        {"data.target_time": told}, f"the model is {'' if told else 'not '}told when its target happens"
    )
    yield _repeats(facts, protocol)
    yield Decision(*_inputs(facts, protocol))
    yield _columns(facts)
    if minutes is not None:
        yield Decision(
            {"train.max_minutes": usable_minutes(minutes), "train.fit_minutes": True},
            f"{minutes:g} minutes less start and test; the schedule ends with them if the machine is slow",
        )


def _habits(facts: Facts, protocol: Protocol) -> bool:
    """Whether people repeat so often that habits are learned."""
    return facts.repeats >= MANY_REPEATS and protocol.seen == "kept"


def _repeats(facts: Facts, protocol: Protocol) -> Decision:
    """Decide what the model is told of what a user had before."""
    share = f"{facts.repeats:.1%} of the events repeat an item"
    if protocol.seen == "excluded" and facts.repeats >= SOME_REPEATS:
        return Decision(
            {"model.repeats": "ignore"}, f"{share}, and the protocol leaves items of the history out"
        )
    if _habits(facts, protocol):
        return Decision(
            {"model.repeats": "habits"}, f"{share}: what people take again has a logit of its own"
        )
    return Decision({"model.repeats": "learned"}, f"{share}: one logit for all that was had")


def usable_minutes(minutes: float) -> float:
    """Return the minutes of a run that are left for training: start, choosing and testing take the rest."""
    return round(max(minutes / 4, minutes * (1 - START_SHARE) - START_S / 60), 3)


def _inputs(facts: Facts, protocol: Protocol) -> tuple[dict[str, Any], str]:
    """Return what the model reads beside items, and why."""
    inputs, why = ["gap"], ["gaps"]
    if facts.has_ratings:
        inputs.insert(0, "rating")
        why.append("ratings")
    if facts.resolution_s < 43_200:
        inputs.append("clock")
        why.append("hour and weekday")
    if facts.span_days > 60 and protocol.kind == "leave_one_out":
        inputs.append("date")
        why.append("date (no cut in time: dates of tests train too)")
    fields = {"model.inputs": inputs, "model.item_attributes": facts.has_attributes}
    step = {1: "seconds", 60: "minutes", 3600: "hours", 86_400: "days"}[facts.resolution_s]
    attributes = "; genres or years of items" if facts.has_attributes else ""
    return fields, f"read: {', '.join(why)} (times are in {step}){attributes}"


def _columns(facts: Facts) -> Decision:
    """Decide which columns that people brought are read: all, for somebody thought them worth bringing.

    What the source itself says of items is read as features where items keep coming up: nothing else ranks these.
    """
    fields: dict[str, Any] = {
        "model.item_features": "auto",
        "model.user_features": "auto",
        "model.context": "auto",
    }
    named = {"items": facts.item_features, "users": facts.user_features, "events": facts.context}
    found = [f"{', '.join(names)} of {what}" for what, names in named.items() if names]
    reason = f"columns: {'; '.join(found)}" if found else "the data have no columns of their own"
    if facts.cold >= MANY_COLD:
        reason += f"; {facts.cold:.0%} of the validation targets are items that never train"
        if facts.has_attributes and not facts.item_features:
            fields |= {"model.item_features": list(FROM_SOURCE), "model.item_attributes": False}
            reason += ", so genres, years and titles are features that rank them"
        elif not facts.item_features:
            reason += ", and without features of items they are misses"
    return Decision(fields, reason)


def density(facts: Facts) -> float:
    """Return 0 for sparse data, 1 for dense, by the logarithm of the events for each item in between."""
    place = math.log(max(facts.per_item, 1.0) / SPARSE) / math.log(DENSE / SPARSE)
    return min(1.0, max(0.0, place))


def _between(sparse: float, dense: float, place: float, digits: int = 2) -> float:
    """Return a value between two, on a logarithmic scale, with few digits."""
    value = math.exp((1 - place) * math.log(sparse) + place * math.log(dense))
    return float(f"{value:.{digits}g}")


def _regularised(facts: Facts) -> Decision:
    """Decide everything that is against learning by heart."""
    place = density(facts)
    # Twenty times the events of ML-1M need much less: HSTU gains 2.8 % on ML-20M from dropout .2 to .1.
    plenty = min(1.0, max(0.0, math.log10(max(facts.events, 1) / 1.5e6) / 1.2))
    fields = {
        "model.dropout": round((0.5 - 0.08 * place) * (1 - plenty) + 0.2 * plenty, 2),
        "model.embedding_dropout": round((0.5 - 0.25 * place) * (1 - plenty) + 0.1 * plenty, 2),
        "model.layer_dropout": round(0.15 * (1 - plenty), 2),
        "optim.weight_decay": _between(0.3, 0.025, place),
        "loss.label_smoothing": round(0.12 * place * (1 - 0.5 * plenty), 2),
        "model.cosine_temperature": round(0.07 - 0.02 * place, 3),
    }
    kind = "sparse" if place < 0.2 else "dense" if place > 0.8 else "in between"
    return Decision(
        fields,
        f"{facts.per_item:.0f} events for each item, {kind}: dropout, decay and smoothing follow it; cosine scores "
        "cannot grow without bound",
    )


def _gpu(facts: Facts, protocol: Protocol, told: bool, minutes: float | None) -> Iterator[Decision]:
    """Decide shape, windows, steps and members for a GPU."""
    place = density(facts)
    habits, wide = _habits(facts, protocol), facts.events > 5e6 and (minutes is None or minutes >= 15)
    yield _regularised(facts)
    max_len = min(_window(facts), 200 if habits else 500)
    blocks = 2 if facts.per_user < LONG else 4
    yield Decision(
        {
            "data.max_len": max_len,
            "data.overlap": max_len // 5,
            "model.dim": 256 if wide else 128,
            "model.blocks": blocks,
            "model.time_states": 64,
            "model.relation_states": 16,
            "model.feed_forward": 2.0,
            "model.horizon": not told and facts.per_user >= LONG,
        },
        f"{facts.per_user:.0f} events for each user, 98 % have at most {facts.user_events[2]:.0f}: windows of "
        f"{max_len}, {blocks} blocks",
    )
    window_tokens = min(facts.per_user, 0.8 * max_len)
    fewest, most_tokens = (5_000.0, 16_000.0) if facts.per_user >= LONG else (2_400.0, 16_000.0)
    tokens = min(40_000.0 if wide else most_tokens, max(fewest, facts.events / 80))
    batch = 2 ** max(3, min(11, int(math.log2(tokens / window_tokens))))
    windows = facts.users * max(1.0, facts.per_user / (0.8 * max_len))
    steps = max(1, math.ceil(windows / batch))
    wanted_steps, most = (3000, 60) if habits else (7000, 64) if told or place < 0.8 else (5000, 48)
    epochs = round(min(most, max(16, wanted_steps / steps)))
    yield Decision(
        {
            "train.batch_size": batch,
            "optim.lr": _between(1e-3, 6e-3, place),
            "optim.warmup_steps": int(min(500, max(50, epochs * steps // 12))),
            "optim.ema": 0.99 if place > 0.5 else 0.997,
            "train.precision": "bf16",
            "evaluation.batch_users": 2048 if facts.items < 50_000 else 512,
        },
        f"about {tokens:,.0f} events a step, {steps} steps an epoch; a higher rate where items are frequent",
    )
    step_ms = 2.4 * blocks + 0.1 * blocks * batch * window_tokens / 1000 + 8.5 * habits
    epoch_s = steps * step_ms * (2.5 if wide else 1.0) / 1000
    usable_s = 60 * usable_minutes(minutes or GPU_MINUTES)
    members = 1 if wide else min(MOST_MEMBERS, max(1, round(CUT_SHORT * usable_s / (epochs * epoch_s))))
    yield Decision(
        {
            "train.epochs": epochs,
            "train.validate_every": max(1, epochs // 24),
            "model.members": members,
        },
        f"at most {epochs} epochs of about {epoch_s:.1f} s (for one member, on a third of an H100); "
        f"{members} member{'s' * (members > 1)} side by side fill the time",
    )


def _window(facts: Facts) -> int:
    """Return the length of windows: as long as most histories."""
    return next((n for n in (50, 100, 200) if facts.user_events[1] <= 0.8 * n), 500)


def _cpu(facts: Facts) -> Iterator[Decision]:
    """Decide shape, windows and steps for a few cores: a small model that sees the data several times."""
    place = density(facts)
    regularised = _regularised(facts)
    # Few epochs learn nothing by heart.
    light = {
        "model.dropout": 0.2,
        "model.embedding_dropout": round(0.3 * (1 - place), 2),
        "model.layer_dropout": 0.0,
        "loss.label_smoothing": 0.0,
    }
    yield Decision(regularised.fields | light, regularised.reason)
    max_len = min(200, _window(facts))
    yield Decision(
        {
            "data.max_len": max_len,
            "data.overlap": max_len // 10,
            "model.dim": 64,
            "model.blocks": 2,
            "model.time_states": 32,
            "model.relation_states": 8,
            "loss.chunk_tokens": 512,
        },
        f"no GPU: width 64, two blocks, windows of {max_len}",
    )
    window_tokens = min(facts.per_user, 0.8 * max_len)
    tokens = min(4_000.0, max(800.0, facts.events / 150))
    batch = 2 ** max(2, min(9, round(math.log2(tokens / window_tokens))))
    yield Decision(
        {
            "train.batch_size": batch,
            "optim.lr": _between(3e-3, 4e-3, place),
            "optim.warmup_steps": 50,
            "train.epochs": 30 if place < 0.5 else 12,
        },
        f"small steps of about {batch * window_tokens:,.0f} events",
    )
