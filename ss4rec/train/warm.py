"""Warm start: a training that begins with the weights of an earlier run, on data that have grown since.

Rows of known items keep theirs, matched by source id; new items begin with what is seen beside them. The first weights
are a checkpoint of step 0 of the new run, so every host of the loop begins with them as it would go on with any other.
The loop validates them before it trains: a training that makes nothing better leaves the old model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ss4rec.config import RunConfig, at, override
from ss4rec.data.batches.replay import replay_of
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_attributes import genre_columns
from ss4rec.errors import ConfigError, DataError
from ss4rec.evaluation.training import training_parts
from ss4rec.io.atomic import write_json
from ss4rec.io.untrusted import read_json
from ss4rec.model.inputs import GENRE_COLUMNS
from ss4rec.model.ss4rec import SequenceModel, make_model
from ss4rec.protocol.plan import Plan, make_plan, plan_of_run
from ss4rec.registry.folder import resolve
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import ANCESTRY_FILE, CHOOSE_FOLDER, CONFIG_FILE, ITEMS_FILE, RunFolder
from ss4rec.runs.record import Ancestor, RunRecord, manifest_fingerprint
from ss4rec.train.fresh import fresh_model
from ss4rec.train.item_rows import ITEM_TABLE, up_to_date_moments
from ss4rec.train.moved_columns import ColumnMoves, Told
from ss4rec.train.new_rows import NewRows, rows_of_new
from ss4rec.train.optim import parameter_names
from ss4rec.train.status import say
from ss4rec.train.stopping import EarlyStopping

FREE = (
    "dropout", "embedding_dropout", "layer_dropout", "time_step_min", "time_step_max", "dt_init", "init_std",
    "time_backend", "relation_backend", "layer_backend", "item_features", "user_features", "id_dropout",
)  # fmt: skip
"""Fields of the model that a warm start may change: they shape no weight, or only random first ones."""
HELD_OUT = 0.1
"""Share of what is new that validates, where the protocol validates by time."""
MOMENTS = ("exp_avg", "exp_avg_sq")
_GENRES = "attributes.table"
"""End of the name of the tensor that has a row for each genre; genres are numbered by how common they are."""


@dataclass(frozen=True)
class Parent:
    """The run that a warm start goes on from."""

    path: Path
    config: RunConfig
    """As the run was asked for: with `protocol.refit` that of the training that chose the number of epochs."""
    record: RunRecord

    @classmethod
    def open(cls, path: Path | str) -> Parent:
        """Open a run folder, or the champion of `registry/NAME`.

        Raises:
            DataError: if it is none, or does not say until when it was trained.
        """
        folder = RunFolder.open(resolve(path))
        config, record = folder.config(), folder.record()
        if config.protocol.refit and (folder.path / CHOOSE_FOLDER / CONFIG_FILE).exists():
            train = RunFolder(folder.path / CHOOSE_FOLDER).config().train
            config = config.model_copy(update={"train": train})
        if record.trained_until_s is None:
            raise DataError(
                f"{folder.path} was trained by an earlier version and does not say until when; train it once more from "
                "nothing"
            )
        return cls(folder.path, config, record)

    @property
    def trained_until_s(self) -> int:
        """Last second of which an event may have trained."""
        assert self.record.trained_until_s is not None
        return self.record.trained_until_s


def warm_config(
    asked: RunConfig, parent: Parent, data: PreparedFolder, given: Collection[str] = ()
) -> RunConfig:
    """Return the configuration of a warm start: `asked`, with what the parent decides.

    Where validation is by time, the last tenth of what is new validates: events that the parent has trained on
    would say that nothing can be better.

    Args:
        asked: what was asked for; its model must be the parent's.
        parent: the run to go on from.
        data: the new data.
        given: dotted fields that were asked for by name; they are never changed.

    Raises:
        ConfigError: in one sentence, if model or protocol do not go together.
    """
    _require_same_model(asked, parent)
    changes: dict[str, object] = {"train.start_from": str(parent.path)}
    if "data.new_after_s" not in given:
        changes["data.new_after_s"] = parent.trained_until_s
    if {"train.epochs", "train.max_minutes"} & set(given) and "train.warm_share" not in given:
        changes["train.warm_share"] = 1.0
    quantile = "protocol.validation_quantile"
    if asked.protocol.kind == "global_time" and asked.protocol.validation == "time" and quantile not in given:
        changes[quantile] = round(1 - HELD_OUT * _new_share(asked, parent, data), 6)
    config = override(asked, changes)
    _require_unseen(config, parent, data)
    return config


def cold_config(config: RunConfig) -> RunConfig:
    """Return the configuration of a training from nothing by the recipe of a run that may have started warm."""
    protocol = config.protocol
    if config.train.start_from and protocol.kind == "global_time":
        default = type(protocol).model_fields["validation_quantile"].default
        config = override(config, {"protocol.validation_quantile": default})
    return override(config, {"train.start_from": "", "data.new_after_s": None})


def _require_same_model(asked: RunConfig, parent: Parent) -> None:
    fields = [f"model.{name}" for name in type(asked.model).model_fields if name not in FREE]
    for name in (*fields, "data.target_time"):
        mine, theirs = at(asked, name), at(parent.config, name)
        if mine != theirs:
            raise ConfigError(
                f"--from {parent.path.name}: {name} is {theirs} there and {mine} here, and a warm start keeps the "
                "model as it is; leave the field as it was, or train without --from"
            )
    if asked.protocol.kind != parent.record.protocol.kind:
        raise ConfigError(
            f"--from {parent.path.name} was trained by protocol {parent.record.protocol.kind}, this training is by "
            f"{asked.protocol.kind}, and would be tested on events that it has learned; give the same --protocol"
        )


def _new_share(config: RunConfig, parent: Parent, data: PreparedFolder) -> float:
    """Return the share of the training events up to the cut that are later than what the parent trained on."""
    protocol = config.protocol.model_copy(update={"refit": True})
    plan = make_plan(protocol, data)
    total = new = 0
    for part in training_parts(data.shard_paths, data.manifest.items, plan, later=True):
        past_E = part.times_E <= (plan.cut_s or 0)
        total += int(past_E.sum())
        new += int((past_E & (part.times_E > parent.trained_until_s)).sum())
    return new / total if new else 1.0


def _require_unseen(config: RunConfig, parent: Parent, data: PreparedFolder) -> None:
    """Refuse a protocol that ranks events which the parent has learned from."""
    plan, protocol = make_plan(config.protocol, data), config.protocol
    if protocol.kind == "leave_one_out":
        _require_held_out_there(protocol.held_out_users, parent)
        return
    if protocol.validation != "time":
        raise ConfigError(
            f"--from {parent.path.name} with protocol.validation={protocol.validation} would choose by events that the "
            "run was trained on; set protocol.validation=time"
        )
    learned_s, cut_s = parent.record.cut_s or parent.trained_until_s, plan.cut_s or 0
    if learned_s > cut_s:
        raise ConfigError(
            f"--from {parent.path.name} has seen events up to {learned_s} and the test begins at {cut_s} (unix "
            "seconds); move protocol.cut to a later moment"
        )
    valid_s = plan.rules.valid_cut_s
    if valid_s is not None and valid_s < parent.trained_until_s < cut_s:
        raise ConfigError(
            f"--from {parent.path.name} was trained up to {parent.trained_until_s} and validation begins at {valid_s} "
            "(unix seconds), so the run would be chosen by what it has learned; raise protocol.validation_quantile"
        )


def _require_held_out_there(users: int | None, parent: Parent) -> None:
    """Refuse to hold out events of users of whom the parent has learned all."""
    theirs = parent.record.protocol.held_out_users
    if theirs is not None and (users is None or users > theirs):
        raise ConfigError(
            f"--from {parent.path.name} held out the last events of {theirs:,} users and learned all of the others, so "
            f"protocol.held_out_users={users} would choose by what it has learned; set it to {theirs} or less"
        )


def begin_warm(folder: RunFolder, config: RunConfig, data: PreparedFolder) -> None:
    """Write the first weights of a warm start as checkpoint 0, once; nothing for a run that starts from nothing.

    Only for the one process that holds the run folder.

    Raises:
        ConfigError: if the parent has other weights now than when the run was begun.
        DataError: if no item of the data is known to the parent.
    """
    if not config.train.start_from:
        return
    parent = Parent.open(config.train.start_from)
    saved = checkpoint.best(RunFolder(parent.path).checkpoints)
    weights = read_json(saved.path / checkpoint.SUMS_FILE)[checkpoint.MODEL_FILE]
    if (folder.path / ANCESTRY_FILE).exists():
        if folder.ancestry()[-1].weights_sha256 != weights:
            raise ConfigError(
                f"{folder.path.name} began with other weights of {parent.path.name} than it has now; choose another "
                "--name"
            )
        return
    plan = plan_of_run(config, data)
    fresh = fresh_model(config, data, plan)
    move = _moves(parent, config, data, plan, fresh)
    model, training = first_tensors(parent, saved, config, fresh, move)
    _save(folder, config, data, model, training)
    ancestor = _ancestor(parent, weights, move.items, config, data, plan)
    chain = [*parent.record.ancestry, ancestor]
    write_json(folder.path / ANCESTRY_FILE, [one.model_dump() for one in chain])
    say(f"warm start from {parent.path.name}: {_in_words(ancestor)}")


def _in_words(found: Ancestor) -> str:
    alone = f" ({found.items_alone:,} beside nothing known)" if found.items_alone else ""
    rows = f"{found.items_known:,} items keep their rows, {found.items_new:,} are new{alone}"
    return f"{rows}; {found.new_windows:,} windows hold something new"


@dataclass(frozen=True)
class Moves:
    """Where the rows of the new run's tensors come from."""

    items: NewRows
    genres: list[tuple[int, int]]
    """Row of each genre in the old table and in the new one."""
    by_item: set[str]
    """Tensors with a row for each item."""
    columns: ColumnMoves
    """Where rows of columns go."""

    def __call__(self, name: str, tensor: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Return a trained tensor of the old run, or something of its shape, as the new run has it.

        Args:
            name: of the tensor.
            tensor: the old one.
            fresh: random values of the new shape, see `NewRows.fill`.
        """
        if name in self.by_item:
            return self.items.fill(tensor, fresh)
        own = self.columns(name, tensor, fresh) if fresh is not None else None
        if own is not None:
            return own
        moved = tensor.clone()
        if name.endswith(_GENRES):
            moved[:GENRE_COLUMNS] = 0.0 if fresh is None else fresh[:GENRE_COLUMNS]
            for old, new in self.genres:
                moved[new] = tensor[old]
        return moved


def _moves(
    parent: Parent, config: RunConfig, data: PreparedFolder, plan: Plan, fresh: SequenceModel
) -> Moves:
    """Return where each row of the old model goes: items, genres and columns."""
    old, new = pq.read_table(parent.path / ITEMS_FILE), plan.items(data)
    before, now = genre_columns(old), genre_columns(new)
    genres = [(before[genre], now[genre]) for genre in before if genre in now]
    known = old["source_id"]
    if parent.record.columns.items is not None:  # rows of items that never trained are nothing to keep
        known = known.slice(0, parent.record.columns.items.trained)
    told = [
        Told(columns, inputs, values or ())
        for columns, inputs, values in (
            (parent.record.columns, parent.config.model.inputs, parent.record.profile_values),
            (fresh.columns, config.model.inputs, data.manifest.profile_values),
        )
    ]
    rows = _rows(parent, data, plan, known, new["source_id"])
    return Moves(rows, genres, item_tensors(config), ColumnMoves(*told))


def _rows(
    parent: Parent, data: PreparedFolder, plan: Plan, old: pa.ChunkedArray, new: pa.ChunkedArray
) -> NewRows:
    parts = training_parts(data.shard_paths, data.manifest.items, plan)
    rows = rows_of_new(old.to_numpy(), new.to_numpy(), parts)
    if old.type != new.type or not (rows.old_V > 0).any():
        raise DataError(
            f"no item of {data.manifest.name} (ids: {new.type}) is known to {parent.path.name} (ids: {old.type}); they "
            "are different data, train without --from"
        )
    return rows


def first_tensors(
    parent: Parent,
    saved: checkpoint.Checkpoint,
    config: RunConfig,
    fresh: SequenceModel,
    move: Moves,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights to serve and what training needs besides, as a checkpoint holds them.

    Args:
        parent: the run before.
        saved: its best checkpoint.
        config: of the new run.
        fresh: the new run's model with random weights.
        move: where rows come from.
    """
    random, trained = fresh.state_dict(), {name for name, _ in fresh.named_parameters()}

    def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # What is no parameter is said about items, and the new data say it.
        return {
            name: move(name, tensors[name], own) if name in trained and name in tensors else own.clone()
            for name, own in random.items()
        }

    weights = moved(saved.model_tensors())
    training: dict[str, Tensor] = {}
    before = saved.training_tensors()
    goes_on = config.train.warm_optimizer == "continue"
    if goes_on:
        training |= _moments(parent, before, config, fresh, move)
    if config.optim.ema:
        raw = {name.removeprefix("raw."): t for name, t in before.items() if name.startswith("raw.")}
        live = moved(raw) if goes_on and raw else weights
        training |= {f"raw.{name}": tensor.clone() for name, tensor in live.items()}
    return weights, training


def item_tensors(config: RunConfig) -> set[str]:
    """Return the names of the model's tensors that have a row for each item."""
    with torch.device("meta"):
        small, large = (
            make_model(config.model, items, config.data.target_time).state_dict() for items in (1, 2)
        )
    return {name for name in small if small[name].shape != large[name].shape}


def _moments(
    parent: Parent, before: Mapping[str, Tensor], config: RunConfig, fresh: SequenceModel, move: Moves
) -> dict[str, Tensor]:
    """Return Adam's state under the new run's numbers; new items have no momentum, and the mean of all squares."""
    with torch.device("meta"):
        old_model = make_model(
            parent.config.model,
            parent.record.num_items,
            parent.config.data.target_time,
            parent.record.columns,
        )
    old_index = {name: index for index, name in enumerate(parameter_names(old_model, parent.config.optim))}
    before = up_to_date_moments(before, old_index.get(ITEM_TABLE, 0), parent.config.optim.betas)
    new = torch.from_numpy(move.items.new_items)
    found = {}
    shapes = dict(fresh.named_parameters())
    for index, name in enumerate(parameter_names(fresh, config.optim)):
        for key in ("step", *MOMENTS):
            nothing = torch.zeros_like(shapes[name] if key in MOMENTS else before["optimizer.0.step"])
            tensor = before[f"optimizer.{old_index[name]}.{key}"] if name in old_index else nothing
            own = move.columns(name, tensor, nothing, stretch=False) if key in MOMENTS else None
            if own is not None:
                tensor = own
            elif key in MOMENTS and name in old_index:
                mean = tensor[1:].mean(0) if name in move.by_item else None
                tensor = move(name, tensor)
                if mean is not None:
                    tensor[new] = mean if key == "exp_avg_sq" else 0.0
            found[f"optimizer.{index}.{key}"] = tensor.clone()
    return found


def _save(
    folder: RunFolder,
    config: RunConfig,
    data: PreparedFolder,
    model: dict[str, Tensor],
    training: dict[str, Tensor],
) -> None:
    """Write checkpoint 0, marked as the new run's own."""
    state = {
        "epoch": 0,
        "step": 0,
        "global_step": 0,
        "score": None,
        "stopping": EarlyStopping(config.train.patience).state(),
        "bad_steps": 0,
        "elapsed_s": 0.0,
        "sums": [0.0, 0.0],
        "planned_steps": None,
        "returns": 0,
        "fingerprint": config.fingerprint(),
        "data_sha256": manifest_fingerprint(data.manifest),
    }
    checkpoint.save(folder.checkpoints, model=model, training=training, state=state)


def _ancestor(
    parent: Parent, weights: str, rows: NewRows, config: RunConfig, data: PreparedFolder, plan: Plan
) -> Ancestor:
    """Return what the new run's record says of the old one."""
    known = int((rows.old_V > 0).sum())
    replay = replay_of(config, data, plan)
    return Ancestor(
        run=parent.path.name,
        fingerprint=parent.record.fingerprint,
        weights_sha256=weights,
        data_name=parent.record.data_name,
        data_sha256=parent.record.data_sha256,
        trained_until_s=parent.trained_until_s,
        items_known=known,
        items_new=len(rows.new_items),
        items_alone=rows.alone,
        items_gone=parent.record.num_items - known,
        new_windows=0 if replay is None else replay.new_windows,
    )
