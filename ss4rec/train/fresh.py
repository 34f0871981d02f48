"""The model of a run with fresh weights, as it is before the first step."""

from __future__ import annotations

import torch

from ss4rec.config import RunConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError
from ss4rec.model.ss4rec import SequenceModel, make_model
from ss4rec.protocol.plan import Plan
from ss4rec.train.loop import seed_step


def fresh_model(config: RunConfig, data: PreparedFolder, plan: Plan) -> SequenceModel:
    """Return the model with fresh weights, the same on all workers, on the host; it knows what is said about items.

    Raises:
        ConfigError: if the model reads of items what the data do not have.
    """
    seed_step(config.train.seed, 0, 0)  # the same first weights on all workers
    model = make_model(config.model, plan.num_items, config.data.target_time)
    if config.model.item_attributes:
        model.set_item_attributes(_attributes(data, plan))
    return model


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
