"""What a training step costs a GPU: memory, bytes over its bus, products, exponentials; and the minimum time they need.

Fitted to one thing only, the memory that torch had allocated on an H100 (benchmarks/results/train_step-*.json): it is
within 15 % there. The rest is counted. A measured step takes about three times its floor, since a step is a few hundred
small kernels one after another; that ratio carries over to another card much better than any single figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from ss4rec.config import RunConfig
from ss4rec.kernels.cards import PART_LOGITS, stores_logits

BYTES_PER_PARAMETER = 20
"""Weight, gradient, two moments and an average or a copy, float32."""
BLOCK_BYTES, OUTSIDE_BYTES = 130, 200
"""Bytes for each token and unit of width that a block, and what is around the blocks, hold until the backward pass."""
PASSES = 4
"""Times that what is held crosses the bus: written, read by the next layer, read and answered in the backward pass."""
SPARE = 0.8
"""Share of a card that a run may be laid out for: the rest goes to kernels, fragments and other programs."""


@dataclass(frozen=True)
class Rates:
    """What a card can do, a second: vendors' figures for dense bf16 products and memory."""

    name: str
    bytes: float
    products: float
    """Floating-point operations of matrix products in bf16."""
    exponentials: float
    """16 a clock and multiprocessor (CUDA C++ Programming Guide, arithmetic instructions)."""


H100 = Rates("H100", 3.35e12, 989e12, 132 * 16 * 1.98e9)
A6000 = Rates("A6000", 768e9, 155e12, 84 * 16 * 1.8e9)
"""NVIDIA RTX A6000 datasheet: 768 GB/s, 154.8 TFLOPS dense bf16, 38.7 TFLOPS float32, 84 multiprocessors."""


def parameters(config: RunConfig, items: int) -> float:
    """Return the number of weights: items and blocks; small vectors are left out."""
    return config.model.members * (items * config.model.dim + _block_weights(config))


def peak_gib(config: RunConfig, items: int, tokens: int) -> float:
    """Return the GiB that a training step asks of a card.

    Args:
        config: the run.
        items: size of the catalogue.
        tokens: events of a step on this card.
    """
    held = config.model.members * (tokens * _held_bytes(config, items) + _logit_bytes(config))
    return (BYTES_PER_PARAMETER * parameters(config, items) + held) / 2**30


def most_tokens(config: RunConfig, items: int, card_gib: float) -> int:
    """Return the events of the largest step that a card of `card_gib` GiB has room for; 0 if it has none at all."""
    fixed = BYTES_PER_PARAMETER * parameters(config, items) + config.model.members * _logit_bytes(config)
    left = SPARE * card_gib * 2**30 - fixed
    return max(0, int(left / (config.model.members * _held_bytes(config, items))))


def floor_s(config: RunConfig, items: int, tokens: int, card: Rates) -> float:
    """Return the minimum seconds of a training step: bytes, products and exponentials one after another."""
    model = config.model
    held = model.dim * (BLOCK_BYTES * model.blocks + OUTSIDE_BYTES)
    moved = PASSES * tokens * held + BYTES_PER_PARAMETER * parameters(config, items) / model.members
    products = tokens * products_per_token(config, items)
    # Forward, and again in the backward pass from what was kept at boundaries; the softmax computes its logits twice.
    states = model.blocks * model.expand * model.dim * model.relation_states
    exponentials = 2.0 * tokens * (states + _scored(config, items))
    one = moved / card.bytes + products / card.products + exponentials / card.exponentials
    return model.members * one


def products_per_token(config: RunConfig, items: int) -> float:
    """Return the floating-point operations of matrix products that a token of one member takes, both passes."""
    return 6.0 * (_block_weights(config) + _scored(config, items) * config.model.dim)


def fitting_batch(config: RunConfig, items: int, window_tokens: float, card_gib: float) -> int:
    """Return the batch, halved until its step fits the card."""
    batch: int = config.train.batch_size
    while batch > 1 and batch * window_tokens > most_tokens(config, items, card_gib):
        batch //= 2
    return batch


def _scored(config: RunConfig, items: int) -> int:
    """Return the number of items that a target's loss looks at."""
    return items if config.loss.kind == "cross_entropy" else int(config.loss.negatives)


def _held_bytes(config: RunConfig, items: int) -> float:
    """Return the bytes that a token of one member holds until the backward pass."""
    model = config.model
    held = model.dim * (BLOCK_BYTES * model.blocks + OUTSIDE_BYTES)
    # The full softmax keeps one bit for each item that a history holds.
    return held + (items / 8 if _holds_items(config) else 0.0)


def _holds_items(config: RunConfig) -> bool:
    """Return whether the full softmax has a logit of its own for items of the history."""
    return config.model.repeats != "ignore" and config.loss.kind == "cross_entropy"


def _logit_bytes(config: RunConfig) -> float:
    """Return the bytes of logits that the full softmax of one member has in memory at a time."""
    narrow = config.train.precision == "bf16" and config.loss.kind == "cross_entropy"
    return 2.0 * PART_LOGITS if stores_logits(config.model.dim, narrow, _holds_items(config)) else 0.0


def _block_weights(config: RunConfig) -> float:
    """Return the weights of all blocks that take part in matrix products."""
    model = config.model
    inner = model.expand * model.dim
    relation = model.dim * 3 * inner + inner * (2 * model.relation_states + model.dim / 8)
    time = 4 * model.time_states * model.dim
    return model.blocks * (relation + time + 3 * model.feed_forward * model.dim**2)
