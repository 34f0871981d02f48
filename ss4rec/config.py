"""The configuration of a run: frozen, typed, nested; unknown keys are refused and all errors are listed at once.

`RunConfig` is the one source of truth: presets (`ss4rec.presets`) return one, the command line overrides single
fields (`--set model.dim=128`), and the resolved result is written into the run folder as `config.json`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic import NonNegativeInt as NonNegativeInt

from ss4rec.errors import ConfigError
from ss4rec.protocol.settings import Protocol


class Section(BaseModel):
    """A frozen part of the configuration that knows its fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


AnySection = TypeVar("AnySection", bound=Section)


class DataConfig(Section):
    """How sequences are cut and dealt."""

    max_len: PositiveInt = 200
    """Longest input sequence, in events."""
    overlap: NonNegativeInt = 50
    """Events that a window repeats from the one before it as context (they are no targets)."""
    target_time: bool = True
    """True: the gap of event k is the time to event k+1, so the model knows when its target happens (as published).
    False: the gap of event k is the time since event k-1."""
    shuffle_shards: PositiveInt = 8
    """Shards whose windows are shuffled together; bounds the memory of the shuffle."""
    new_after_s: NonNegativeInt | None = None
    """Warm start (`--from` sets it): windows are new with a target after this second (unix time); None: all are."""
    targets: str = "auto"
    """Which events are targets; others are what people did on the way. `auto`: as the data were prepared (`--targets`),
    `all`, or a column about events and its values, as in `event=purchase|gift`."""
    source: Literal["ray", "local"] = "ray"
    """Ray Data streaming, or reading in the worker's own process. Both give the same batches."""
    prefetch_batches: NonNegativeInt = 4
    """Blocks that Ray Data fetches ahead of the trainer."""


class ModelConfig(Section):
    """SS4Rec's shape. Defaults are the published configuration."""

    dim: PositiveInt = 64
    """Width of embeddings and residual stream (D)."""
    blocks: PositiveInt = 2
    """Number of SS-blocks."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Dropout after each of a block's layers."""
    embedding_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the item embeddings."""
    time_states: PositiveInt = 32
    """Complex states of the time-aware SSM (P)."""
    time_step_min: PositiveFloat = 0.001
    """Smallest initial step of the time-aware SSM, per unit of gap."""
    time_step_max: PositiveFloat = 0.1
    """Largest initial step of the time-aware SSM, per unit of gap."""
    gap_map: Literal["seconds", "log"] = "seconds"
    """`seconds`: step = gap * exp(log_step), as published. `log`: step = softplus(w*log1p(gap)+b) * exp(log_step)."""
    relation_states: PositiveInt = 32
    """States of the relation-aware SSM per channel (N)."""
    expand: PositiveInt = 2
    """Inner width of the relation-aware SSM in multiples of `dim`."""
    conv_width: int = Field(default=4, ge=1, le=8)
    """Taps of the causal convolution."""
    dt_init: Literal["published", "mamba"] = "published"
    """`published`: softplus(0) everywhere (RecBole's initialiser erases Mamba's); `mamba`: log-uniform .001 to .1."""
    feed_forward: float = Field(default=0.0, ge=0.0)
    """Hidden width of a gated feed-forward layer after the two SSMs, in multiples of `dim`; 0 leaves it out."""
    norm: Literal["post", "pre"] = "post"
    """Layer norm after each residual sum (published) or before each layer."""
    shared_norm: bool = True
    """One layer norm for all layers of a block, as published."""
    norm_eps: PositiveFloat = 1e-12
    """Epsilon of layer norms."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of embeddings and linear weights at the start."""
    cosine_temperature: NonNegativeFloat = 0.0
    """0: scores are dot products. Else: cosine similarity divided by this."""
    repeats: Literal["ignore", "learned", "habits"] = "ignore"
    """`learned`: one logit, the same for all, is added to the score of every item that the history holds. All-position
    training sees the same history many times an epoch and unlearns repeating slowly without it. `habits`: the logit
    depends on how often and how long ago, on the item and on the user's state; for data in which people repeat."""
    layer_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that an event skips a layer (stochastic depth, arXiv 1603.09382, for each event on its own)."""
    inputs: tuple[Literal["rating", "gap", "clock", "date", "profile"], ...] = ()
    """What is added to the embedding of each event beside its item: the user's rating of it, its gap in half octaves,
    hour and weekday (UTC) and date of the moment for which the next item is predicted, and the user's profile."""
    horizon: bool = False
    """The model is told, behind its blocks, how long ago the last event was when a recommendation is asked for, or that
    nobody knows. In training the moment is drawn between an event and the next one. For `data.target_time=false`: who
    comes back after weeks wants something else than who is still there."""
    item_attributes: bool = False
    """Genres and five-year period of release as vectors added to the item's row, as input and as candidate."""
    item_features: Literal["auto", "none"] | tuple[str, ...] = "auto"
    """Features of items, added to their rows; items that never trained are ranked by them. `auto`: all that the data
    have (`--item-features`). Names choose some, or `genres`, `period` and `title` of the source."""
    id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """With features of items: share of learned rows left out at each training step; features learn to stand alone."""
    user_features: Literal["auto", "none"] | tuple[str, ...] = "auto"
    """Columns about users, added to each event. `auto`: all that the data were prepared with (`--user-features`). Names
    choose some, or what the source says about users; `profile` in `inputs` reads all."""
    context: Literal["auto", "none"] | tuple[str, ...] = "auto"
    """Columns about an event (device, price), added to it as input. `auto`: all that the data have (`--context`)."""
    members: PositiveInt = 1
    """Independent models that are trained side by side and whose logits are averaged."""
    time_backend: Literal["auto", "reference", "triton"] = "auto"
    """Implementation of the time-aware scan; the run record names what `auto` chose."""
    relation_backend: Literal["auto", "reference", "mamba_ssm", "triton"] = "auto"
    """Implementation of the relation-aware scan and convolution."""
    layer_backend: Literal["auto", "reference", "triton"] = "auto"
    """Implementation of dropout, residual sum and layer norm (of `norm=post`) and of the feed-forward layer's gate."""

    @field_validator("item_features", "user_features", "context", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) and value not in ("auto", "none") else value

    @field_validator("inputs")
    @classmethod
    def _different(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(inputs)) < len(inputs):
            raise ValueError("each input may be named once")
        return inputs


class LossConfig(Section):
    """The training objective."""

    kind: Literal["cross_entropy", "sampled_softmax", "bpr"] = "cross_entropy"
    """Cross entropy of the full softmax, of one over sampled items with logQ correction, or BPR."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability mass spread evenly over all items."""
    swap_inputs: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that an input item is replaced by a random one (stochastic shared embeddings, arXiv 1905.10630)."""
    swap_targets: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that a target is replaced by a random item."""
    negatives: PositiveInt = 1
    """Negatives per target (BPR) or per step, shared by all targets (sampled softmax; use 1,000s)."""
    negative_sampling: Literal["uniform", "log_uniform"] = "uniform"
    """Distribution of sampled softmax's negatives: uniform, or log-uniform by rank of popularity."""
    backend: Literal["auto", "reference", "triton"] = "auto"
    """Implementation of cross entropy; the run record names what `auto` chose. Triton's keeps no logits in memory."""
    chunk_tokens: PositiveInt = 8192
    """Targets whose logits `reference` has in memory at one time."""


class OptimConfig(Section):
    """Adam and its schedule."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (AdamW) on matrices; 0 is plain Adam."""
    base_dim: NonNegativeInt = 0
    """Width for which `lr` was chosen: the rates of matrices are multiplied by base_dim / dim where the model is wider,
    and those with more than 2 dim inputs by as much less (muP, arXiv 2203.03466). 0: one rate for all."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's moment decays."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; a warm start takes 50 of them at most, since its weights are trained."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up; cosine falls to `final_lr_share` at the last epoch."""
    final_lr_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of `lr` that is left at the end of a cosine schedule."""
    clip_norm: NonNegativeFloat = 0.0
    """Largest global gradient norm; 0 does not clip."""
    item_updates: Literal["auto", "all", "touched"] = "auto"
    """Sampled softmax: a step updates all item rows, or those that it reads, to the same effect; `auto`: what pays."""
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of the moving average of weights that is validated and kept; 0 is off."""


class TrainConfig(Section):
    """The training loop."""

    epochs: PositiveInt = 200
    """Most epochs."""
    batch_size: PositiveInt = 64
    """Windows a step, over all workers."""
    patience: NonNegativeInt = 10
    """Validations without a better NDCG@10 before training stops; 0 never stops early."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    max_minutes: NonNegativeFloat = 0.0
    """Training ends after the epoch in which this is passed; 0 has no limit."""
    fit_minutes: bool = False
    """The speed of the first epochs decides how many there are, so that the schedule ends within `max_minutes`."""
    divergence: Literal["go_back", "stop", "ignore"] = "go_back"
    """What follows if the loss climbs far above its best: back to the best checkpoint with half of the learning rate
    (three times at most), the end, or nothing."""
    seed: NonNegativeInt = 2020
    """Seed of weights, order and dropout."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast of matrix products; states, norms and losses stay float32."""
    compile: bool = False
    """torch.compile the model."""
    cuda_graphs: Literal["auto", "yes", "no"] = "auto"
    """Replay steps as CUDA graphs; `auto`: where kernels are Triton's and `compile` and `deterministic` are not set."""
    deterministic: bool = False
    """Deterministic CUDA algorithms, at a cost in speed."""
    keep_checkpoints: PositiveInt = 1
    """Last checkpoints that are kept beside the best one."""
    checkpoint_every_s: NonNegativeFloat = 60.0
    """A checkpoint is written after each validation that is the best so far, and at least this often."""
    status_every_s: PositiveFloat = 5.0
    """Seconds between status lines."""
    report_every_s: NonNegativeFloat = 10.0
    """Least seconds between two reports to Ray Train (each is a barrier of about 2 s)."""
    start_from: str = ""
    """Run folder whose weights this training begins with (`--from`); empty begins with random ones."""
    replay_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Warm start: share of the windows without anything new that train too, against forgetting."""
    warm_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Warm start: share of `epochs` and `max_minutes` that it takes; 1 where `--from` is given with one of the two."""
    warm_optimizer: Literal["fresh", "continue"] = "fresh"
    """Warm start: Adam begins anew, or goes on with the moments of the run before."""
    skip_bad_steps: NonNegativeInt = 0
    """Steps with a non-finite loss or gradient that may be skipped before training stops."""


class EvalConfig(Section):
    """Full-ranking evaluation."""

    ks: tuple[PositiveInt, ...] = (5, 10, 20)
    """Cut-offs of HR, NDCG and MRR."""
    batch_users: PositiveInt = 256
    """Users scored together."""
    at_end: bool = True
    """Evaluate the best checkpoint on the test items when training ends."""


class ResourceConfig(Section):
    """What the run takes from the cluster."""

    workers: PositiveInt = 1
    """Training workers; of an elastic run the fewest that it goes on with."""
    max_workers: PositiveInt | None = None
    """Elastic: most workers, as nodes come and go (`--workers 1:8`); batch, order and schedule stay. None: fixed."""
    resize_every_s: PositiveFloat = 60.0
    """Elastic: seconds between two looks whether more workers fit; each change costs a restart from the checkpoint."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """Whether each worker takes a GPU; `auto` looks at the cluster."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs reserved for each worker."""
    threads_per_worker: NonNegativeInt = 0
    """Torch threads of a CPU worker; 0 shares the machine's cores evenly among its workers."""
    data_cpus: PositiveFloat = 1.0
    """CPUs that must be left for Ray Data beside the workers."""
    max_failures: int = Field(default=3, ge=-1)
    """Failures of workers or nodes after which the run gives up; -1 never does."""
    timeout_s: PositiveFloat = 600.0
    """Time-out of collective operations."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers {self.max_workers} is less than workers {self.workers}")
        return self

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return self.max_workers is not None and self.max_workers > self.workers


class TrackingConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases mode."""
    project: str = "ss4rec"
    """Weights & Biases project."""
    group: str = ""
    """Weights & Biases group, as of a sweep's trials; empty for none."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""
    model: Literal["auto", "yes", "no"] = "auto"
    """Whether trackers get the best checkpoint as an artifact; `auto`: W&B online and MLflow do, trials do not."""
    mlflow: str = ""
    """MLflow: address of a server or a store, or a folder for a store of its own; empty for none."""
    mlflow_model: str = ""
    """Name under which MLflow registers the model; empty does not register it."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the run folder."""


class RunConfig(Section):
    """Everything that decides a run's result, plus where it runs."""

    preset: str = "paper"
    """Name of the preset that this configuration started from."""
    data: DataConfig = DataConfig()
    """Sequences."""
    model: ModelConfig = ModelConfig()
    """Model."""
    loss: LossConfig = LossConfig()
    """Objective."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    train: TrainConfig = TrainConfig()
    """Loop."""
    evaluation: EvalConfig = EvalConfig()
    """Ranking metrics."""
    protocol: Protocol = Protocol()
    """What trains, what chooses the model, what tests it."""
    resources: ResourceConfig = ResourceConfig()
    """Cluster resources."""
    tracking: TrackingConfig = TrackingConfig()
    """Experiment tracking."""

    def fingerprint(self) -> str:
        """Return the first 12 hex digits of the SHA-256 of what decides the result (not resources or tracking).

        Fields of `ADDED` leave no trace while they hold their defaults, so old runs keep their fingerprints.
        """
        decisive = self.model_dump(
            mode="json", exclude={"preset": True, "resources": True, "tracking": True, "protocol": {"name"}}
        )
        start = RunConfig()
        for dotted in ADDED:
            if at(self, dotted) == at(start, dotted):
                section, _, leaf = dotted.partition(".")
                del decisive[section][leaf]
        if self.protocol.model_copy(update={"name": start.protocol.name}) == start.protocol:
            del decisive["protocol"]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


ADDED = (
    "model.horizon", "optim.base_dim", "train.divergence", "train.fit_minutes", "data.new_after_s",
    "train.start_from", "train.replay_share", "train.warm_share", "train.warm_optimizer", "model.item_features",
    "model.id_dropout", "model.user_features", "model.context", "data.targets", "protocol.held_out_users",
    "optim.item_updates",
)  # fmt: skip
"""Fields that the first release (commit f17c6ec) did not have, beside those of the protocol. Add new ones here."""


def parse_config(raw: Mapping[str, Any]) -> RunConfig:
    """Validate `raw` (nested, as from JSON) into a `RunConfig`; raises as `parse_section`."""
    return parse_section(RunConfig, raw, "configuration")


def parse_section(kind: type[AnySection], raw: Mapping[str, Any], what: str) -> AnySection:
    """Validate `raw` (nested, as from JSON) into a section of type `kind`.

    Args:
        kind: the section.
        raw: its fields.
        what: how errors name it, as in "drift configuration".

    Raises:
        ConfigError: with every problem on a line of its own; unknown keys come with the nearest known one.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = [_describe(item, kind) for item in error.errors()]
        raise ConfigError(f"{what} refused:\n  " + "\n  ".join(problems)) from None


def override(config: RunConfig, assignments: Mapping[str, Any]) -> RunConfig:
    """Return `config` with dotted fields replaced, as in `{"model.dim": 128}`; all problems are listed at once."""
    raw = config.model_dump(mode="json")
    for dotted, value in assignments.items():
        *parents, leaf = dotted.split(".")
        node = raw
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"{dotted}: {name!r} is a value, not a section; name one of its section's fields"
                )
            node = child
        node[leaf] = value
    return parse_config(raw)


def field_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Return every dotted field name of `model`, sections' own names left out."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += field_names(kind, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def config_changes(before: RunConfig, after: RunConfig) -> dict[str, Any]:
    """Return the dotted fields in which `after` differs from `before`, with the values they have in `after`."""
    return {name: at(after, name) for name in field_names() if at(after, name) != at(before, name)}


def at(config: BaseModel, dotted: str) -> Any:
    """Return the value of a dotted field."""
    return functools.reduce(getattr, dotted.split("."), config)


def _describe(item: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """Turn one pydantic error into `field: what, value, what to do`."""
    dotted = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = nearest_field(dotted, kind)
        everything = "see `ss4rec config --fields` for all names"
        if kind is not RunConfig:
            everything = f"fields: {', '.join(field_names(kind))}"
        hint = f'; did you mean "{near}"?' if near else f"; {everything}"
        return f"{dotted}: no such field{hint}"
    return f"{dotted}: {item['msg'][0].lower()}{item['msg'][1:]}, got {reprlib.repr(item['input'])}"


def nearest_field(dotted: str, kind: type[BaseModel] = RunConfig) -> str | None:
    """Return the field of `kind` nearest to `dotted`: by the whole path first, then by its last name."""
    names = [*kind.model_fields, *field_names(kind)]
    leaf = dotted.rsplit(".", 1)[-1]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
    for wanted, known in ((dotted, {name: name for name in names}), (leaf, by_leaf)):
        found = difflib.get_close_matches(wanted, known, n=1, cutoff=0.7)
        if found:
            return known[found[0]]
    return None
