"""A run's weights as a model: read from its best checkpoint, and checked before memory is taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ss4rec.config import RunConfig
from ss4rec.errors import CheckpointError
from ss4rec.model.ss4rec import SequenceModel, make_model
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import RunRecord


def load_model(run_dir: Path, device: str = "cpu") -> tuple[SequenceModel, RunConfig]:
    """Load the best checkpoint of a run as a model in evaluation mode.

    Raises:
        DataError: if `run_dir` is no run folder.
        CheckpointError: if no checkpoint is intact or fits the run's configuration.
    """
    folder = RunFolder.open(Path(run_dir))
    config, record = folder.config(), folder.record()
    saved = checkpoint.best(folder.checkpoints)
    _require_size(saved, config, record)
    model = make_model(config.model, record.num_items, config.data.target_time, record.columns)
    load_weights(model, saved)
    return model.to(device).eval(), config


def load_weights(model: SequenceModel, saved: checkpoint.Checkpoint) -> None:
    """Copy a checkpoint's weights into `model`.

    Raises:
        CheckpointError: if names or shapes do not agree, or a weight is not finite.
    """
    load_tensors(model, saved.model_tensors(), saved.path)


def load_tensors(model: SequenceModel, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy `tensors`, which come from the checkpoint `source`, into `model`; raises as `load_weights`."""
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in tensors.items():
        own = model.get_buffer(name).dtype if name in buffers else torch.float32
        if not own.is_floating_point and tensor.dtype == own:
            continue
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"checkpoint {source}: {name} is not finite numbers ({tensor.dtype}); use an earlier one"
            )
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {source} does not fit this model: {error}") from None


def _require_size(saved: checkpoint.Checkpoint, config: RunConfig, record: RunRecord) -> None:
    """Refuse a configuration that would take more memory than the weights on disk, before it is taken.

    Only those can be large that a file backs, so a folder from a stranger cannot make a model of 10^12 items.
    """
    found, expected = saved.model_shapes(), (record.num_items + 1, config.model.dim)
    first = "embedding.weight" if config.model.members == 1 else "parts.0.embedding.weight"
    if found.get(first) != expected or config.model.blocks * config.model.members > len(found):
        raise CheckpointError(
            f"checkpoint {saved.path} has item embeddings {found.get(first)}, and the run's record and "
            f"configuration describe {expected} in {config.model.members} x {config.model.blocks} blocks; "
            "the folder is mixed up"
        )
    wrong = sorted(name for name, shape in _sizes(config, record).items() if found.get(name) != shape)
    if wrong:
        raise CheckpointError(
            f"checkpoint {saved.path} does not fit this model: {', '.join(wrong[:5])} is missing or has another shape"
        )


def _sizes(config: RunConfig, record: RunRecord) -> dict[str, tuple[int, ...]]:
    """Return the shapes in which every size of a model stands; `load_tensors` compares the others.

    A model on torch's `meta` device would tell all shapes, but the first such model imports torch's compiler: 5 s.
    """
    model, items = config.model, record.columns.items
    inner, hidden = model.expand * model.dim, round(model.feed_forward * model.dim)
    of_block: dict[str, tuple[int, ...]] = {
        "time.input_2PD": (2 * model.time_states, model.dim),
        "relation.A_log": (inner, model.relation_states),
        "relation.conv_weight": (inner, model.conv_width),
    }
    if hidden:
        of_block["feed_forward.down.weight"] = (model.dim, hidden)
    of_member: dict[str, tuple[int, ...]] = {"embedding.weight": (record.num_items + 1, model.dim)}
    if items is not None:
        of_member["features.table"] = (items.rows, model.dim)
        of_member["features.codes_N"] = (items.pairs,)
        of_member["features.vectors_VF"] = (record.num_items + 1, items.dims)
    for block in range(model.blocks):
        of_member |= {f"blocks.{block}.{name}": shape for name, shape in of_block.items()}
    prefixes = [""] if model.members == 1 else [f"parts.{member}." for member in range(model.members)]
    return {prefix + name: shape for prefix in prefixes for name, shape in of_member.items()}
