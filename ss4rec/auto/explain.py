"""What `auto` chose, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ss4rec.auto.choose import Decision, Machine
from ss4rec.auto.look import Facts
from ss4rec.config import RunConfig, at


def headline(facts: Facts, machine: Machine, config: RunConfig) -> list[str]:
    """Return the few lines that a run says at its start."""
    model, train = config.model, config.train
    members = f"{model.members} members of " if model.members > 1 else ""
    repeats = {"habits": "habits", "learned": "one logit for repeats", "ignore": "no logit for repeats"}
    where = "a GPU" if machine.gpu else f"{machine.cores} CPU cores"
    attributes = ", attributes of items" if model.item_attributes else ""
    chosen = {"items": facts.item_features if model.item_features == "auto" else model.item_features}
    chosen |= {"users": facts.user_features if model.user_features == "auto" else model.user_features}
    chosen |= {"events": facts.context if model.context == "auto" else model.context}
    columns = [f"{', '.join(names)} of {what}" for what, names in chosen.items() if names and names != "none"]
    more = f"; columns: {', '.join(columns)}" if columns else ""
    return [
        f"auto: {facts.name} has {facts.per_item:.0f} training events for each item and {facts.per_user:.0f} for each "
        f"user, {facts.repeats:.0%} repeats, times in steps of {facts.resolution_s:,} s; on {where}",
        f"auto: {members}{model.blocks} blocks of width {model.dim}, windows of {config.data.max_len}, reads "
        f"{', '.join(model.inputs)}{attributes}{more}; {repeats[model.repeats]}",
        f"auto: at most {train.epochs} epochs of {train.batch_size} windows a step, rate {config.optim.lr:g}, decay "
        f"{config.optim.weight_decay:g}, dropout {model.dropout:g} and {model.embedding_dropout:g}; "
        "`ss4rec config --explain --data D` says why",
    ]


def explained(
    config: RunConfig, decisions: Sequence[Decision], own: Sequence[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """Yield field, value and reason of every decision, in order.

    Args:
        config: what came of it, with the user's own values.
        decisions: as from `choose`.
        own: fields that the user set.
    """
    for decision in decisions:
        reason = decision.reason
        for field in decision.fields:
            yield field, str(at(config, field)), "set by you" if field in own else reason
            reason = "as above" if field not in own else reason
