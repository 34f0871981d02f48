"""The model of a run with fresh weights, as it is before the first step."""

from __future__ import annotations

import torch

from ss4rec.config import RunConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_codes import chosen_features, item_codes
from ss4rec.data.prepared.user_profiles import chosen_columns, codes_of_columns
from ss4rec.errors import ConfigError
from ss4rec.model.columns import DataColumns
from ss4rec.model.item_features import ItemCodes
from ss4rec.model.ss4rec import SequenceModel, make_model
from ss4rec.protocol.plan import Plan
from ss4rec.train.loop import seed_step


def fresh_model(config: RunConfig, data: PreparedFolder, plan: Plan) -> SequenceModel:
    """Return the model with fresh weights, the same on all workers, on the host; it knows what is said about items.

    Raises:
        ConfigError: if the model reads of items what the data do not have.
    """
    seed_step(config.train.seed, 0, 0)  # the same first weights on all workers
    columns, codes = _columns(config, data, plan)
    model = make_model(config.model, plan.num_items, config.data.target_time, columns)
    if codes is not None:
        model.set_item_features(codes, plan.trained)
    if config.model.item_attributes:
        model.set_item_attributes(_attributes(data, plan))
    return model


def _columns(config: RunConfig, data: PreparedFolder, plan: Plan) -> tuple[DataColumns, ItemCodes | None]:
    """Return what the model reads of the data's columns, and the features of its items.

    Raises:
        ConfigError: if it wants what the data do not have.
    """
    manifest, names = data.manifest, chosen_features(config.model.item_features, data.manifest)
    codes = item_codes(plan.items(data), manifest, names) if names else None
    users = chosen_columns(config.model.user_features, manifest)
    columns = DataColumns(
        items=None if codes is None else codes.columns.model_copy(update={"trained": plan.trained}),
        users=users,
        user_codes=codes_of_columns(users, manifest.profile_values or ()),
        context=plan.rules.context,
    )
    return columns, codes


def _attributes(data: PreparedFolder, plan: Plan) -> torch.Tensor:
    """Return the items' attributes.

    Raises:
        ConfigError: if no item has any.
    """
    attributes_VA = plan.attributes(data)
    if not bool(attributes_VA.any()):
        raise ConfigError(
            f"model.item_attributes is true and no item of {data.manifest.name} has a genre or a year behind its "
            "title; set it to false or prepare data that have"
        )
    return attributes_VA
