"""The item table trained by the rows of a step: equal to dense Adam, resumed to the bit, else refused."""

import copy
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ss4rec.config import OptimConfig, override
from ss4rec.errors import CheckpointError, ConfigError
from ss4rec.model.sampled import NegativeSampler
from ss4rec.model.ss4rec import make_model
from ss4rec.presets import preset
from ss4rec.runs.folder import RunFolder
from ss4rec.train import item_rows
from ss4rec.train.group import Workers
from ss4rec.train.item_rows import ItemRows, choose_rows, up_to_date_moments
from ss4rec.train.optim import make_optimizer, set_rate
from tests.faults.small import KilledError, equal, last_checkpoint, small, stop_before, train
from tests.group import run_pair

ITEMS, DIM, STEPS = 30, 5, 90
ALONE = Workers(0, 1, torch.device("cpu"))
SAMPLED = {"loss.kind": "sampled_softmax", "loss.negatives": 20, "model.dropout": 0.0}
TOUCHED = SAMPLED | {"optim.item_updates": "touched"}


class Table(nn.Module):
    """Nothing but a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(ITEMS + 1, DIM, padding_idx=0, dtype=torch.float64)


def rate(step):
    return 0.05 * (1 + step % 7) / 7


def drawn(step):
    """Items of a step with what their rows' products with its loss are: few items, with repeats; padding too."""
    generator = torch.Generator().manual_seed(step)
    items = torch.randint(0, ITEMS + 1, (4,), generator=generator)
    return items.repeat(2), torch.randn(8, DIM, generator=generator, dtype=torch.float64)


def dense(config, sizes=1.0, refused=()):
    """Train a table with torch's AdamW; yield it after each step."""
    model = Table()
    optimizer = make_optimizer(model, config)
    for step in range(STEPS):
        optimizer.zero_grad()
        set_rate(optimizer, rate(step))
        items, factors = drawn(step)
        (F.embedding(items, model.embedding.weight, padding_idx=0) * factors * sizes).sum().backward()
        if step not in refused:
            optimizer.step()
        yield model.embedding.weight.detach()


def by_rows(config, sizes=1.0, refused=(), most=None):
    """Train a table by rows; yield what a step looks up before it, and the trained rows after it."""
    model = Table()
    optimizer = make_optimizer(model, config)
    rows = ItemRows(model.embedding.weight, optimizer, ALONE, most)
    for step in range(STEPS):
        set_rate(optimizer, rate(step))
        items, factors = drawn(step)
        found = rows.look_up(items[:3], items[3:])
        (torch.cat(found) * factors * sizes).sum().backward()
        rows.collect()
        rows.merge()
        rows.update(torch.tensor(1.0), torch.tensor(float(step in refused)))
        rows.settled = False
        yield items, torch.cat(found).detach(), rows


@pytest.mark.parametrize("refused", [(), (5, 6, 40)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rows_are_those_of_dense_adam_whenever_they_are_looked_up(decay, refused):
    """Seen to fail: without the drift of skipped steps; with the decay of skipped steps left out."""
    config = OptimConfig(weight_decay=decay)
    before = Table().embedding.weight.detach()
    for after, (items, seen, rows) in zip(  # noqa: B007 - the last one is looked at
        dense(config, refused=refused), by_rows(config, refused=refused), strict=True
    ):
        torch.testing.assert_close(seen, before[items], rtol=1e-7, atol=1e-7)
        before = after.clone()
    torch.testing.assert_close(rows.settled_table(), after, rtol=1e-7, atol=1e-7)
    rows.settle()
    torch.testing.assert_close(rows.table.detach(), after, rtol=1e-7, atol=1e-7)
    assert bool((rows.table[0] == 0).all())


def test_moments_are_those_of_dense_adam_once_all_rows_are_up_to_date():
    config = OptimConfig(betas=(0.8, 0.99))
    model = Table()
    optimizer = make_optimizer(model, config)
    for step in range(STEPS):
        optimizer.zero_grad()
        set_rate(optimizer, rate(step))
        items, factors = drawn(step)
        (F.embedding(items, model.embedding.weight, padding_idx=0) * factors).sum().backward()
        optimizer.step()
    *_, (_, _, rows) = by_rows(config)
    tensors = {
        f"optimizer.0.{key}": value.clone() for key, value in rows.optimizer.state[rows.table].items()
    } | {name: tensor.clone() for name, tensor in rows.state_tensors().items()}
    faded = up_to_date_moments(tensors, 0, config.betas)
    rows.settle()
    for key, expected in optimizer.state[model.embedding.weight].items():
        torch.testing.assert_close(rows.optimizer.state[rows.table][key], expected, check_dtype=False)
        torch.testing.assert_close(
            faded[f"optimizer.0.{key}"], expected, check_dtype=False, rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize(("sizes", "allowed"), [(1e-6, 2e-3), (1e-8, 2e-2), (1e-11, 1e-4)])
def test_epsilon_beside_small_gradients_is_no_more_than_a_small_error(sizes, allowed):
    """As far as the table has moved; the first steps, whose bias corrections change fast, are the worst case."""
    *_, after = dense(OptimConfig(), sizes)
    *_, (_, _, rows) = by_rows(OptimConfig(), sizes)
    moved = (after - Table().embedding.weight.detach()).norm()
    assert (rows.settled_table() - after).norm() / moved < allowed


def test_fixed_sizes_change_nothing():
    *_, (_, _, free) = by_rows(OptimConfig())
    *_, (_, _, fixed) = by_rows(OptimConfig(), most=13)
    assert len(fixed.items_U) == 13
    assert torch.equal(fixed.settled_table(), free.settled_table())


def test_all_rows_are_brought_up_to_date_in_time(prepared, tmp_path, monkeypatch):
    """Seen to fail: with sums for 2 steps and no `settle` in the step (an index is out of range)."""
    for module in ("skipped_steps", "step", "item_rows"):
        monkeypatch.setattr(f"ss4rec.train.{module}.LONGEST", 2)
    train(prepared, tmp_path / "rows", small(**TOUCHED))
    train(prepared, tmp_path / "dense", small(**SAMPLED))
    assert_near(tmp_path / "rows", tmp_path / "dense")


def assert_near(left, right, **tolerance):
    tensors = [last_checkpoint(run).model_tensors() for run in (left, right)]
    for name, wanted in tensors[1].items():
        torch.testing.assert_close(
            tensors[0][name], wanted, **({"rtol": 1e-3, "atol": 2e-4} | tolerance), msg=name
        )


EVERYTHING = {
    "optim.clip_norm": 0.05,
    "optim.weight_decay": 0.1,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 3,
}


def test_a_training_by_rows_takes_the_course_of_a_dense_one(prepared, tmp_path):
    """Seen to fail: with the rows left out of the gradient's norm; without the drift of skipped steps."""
    for name, changes in (("rows", TOUCHED), ("dense", SAMPLED)):
        train(prepared, tmp_path / name, small(**changes, **EVERYTHING))
    losses = [
        [row["train_loss"] for row in RunFolder(tmp_path / name).metrics() if row["kind"] == "epoch"]
        for name in ("rows", "dense")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_near(tmp_path / "rows", tmp_path / "dense")
    assert RunFolder(tmp_path / "rows").record().backends["items"] == "touched rows"
    assert "items" not in RunFolder(tmp_path / "dense").record().backends


@pytest.mark.parametrize("at", [2, 5, 7])
def test_stop_anywhere_and_continue(prepared, tmp_path, monkeypatch, at):
    """Seen to fail: with up-to-date rows instead of those as they are in the checkpoint's training tensors."""
    config = small(**TOUCHED, **EVERYTHING)
    train(prepared, tmp_path / "whole", config)
    stop_before(monkeypatch, at)
    with pytest.raises(KilledError):
        train(prepared, tmp_path / "run", config)
    # Validation, after every fifth step, brings all rows up to date.
    assert (item_rows.LAST in last_checkpoint(tmp_path / "run").training_tensors()) == (at != 5)
    train(prepared, tmp_path / "run", config)
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_of_dense_training_goes_on_by_rows_and_back_once_it_is_up_to_date(
    prepared, tmp_path, monkeypatch
):
    """`auto` chooses, so that the configuration stays the same."""
    config = small(**SAMPLED)
    train(prepared, tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KilledError):
            train(prepared, tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr(item_rows, "PAYS_FROM", 0)
        stop_before(patch, 7)
        with pytest.raises(KilledError):
            train(prepared, tmp_path / "run", config)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        train(prepared, tmp_path / "run", config)
    assert_near(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"optim\.item_updates=touched"):
        train(prepared, tmp_path / "copy", config)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (item_rows.TABLE, None, "rows.table is missing"),
        (item_rows.LAST, lambda last: last + 99, "out of range"),
        (item_rows.SUMS, lambda sums: sums + torch.inf, "rows.sums is not finite"),
        (item_rows.STEPS, lambda steps: steps.float(), "rows.steps is missing or of another model"),
    ],
)
def test_what_a_checkpoint_says_of_rows_is_checked(name, value, message, tmp_path):
    *_, (_, _, rows) = by_rows(OptimConfig())
    tensors = {key: tensor.clone() for key, tensor in rows.state_tensors().items()}
    rows.load(copy.deepcopy(tensors), tmp_path)
    changed = tensors | ({} if value is None else {name: value(tensors[name])})
    if value is None:
        del changed[name]
    with pytest.raises(CheckpointError, match=message):
        rows.load(changed, tmp_path)


def every_item(sampler, count, device):
    return torch.arange(1, sampler.num_items + 1), torch.full(
        (sampler.num_items,), -math.log(sampler.num_items)
    )


def one_of(rank, world, prepared, run):
    """Train as one of some workers. What is drawn is each worker's own: here that is every item, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NegativeSampler, "draw", every_item)
        train(prepared, run, small(**TOUCHED, **EVERYTHING), rank=rank, world=world)


@pytest.mark.timeout(900)
def test_two_workers_end_with_the_weights_of_one(prepared, tmp_path):
    """Seen to fail: without `share`; with a row of both workers written twice and not summed."""
    one_of(0, 1, prepared, tmp_path / "one")
    run_pair(one_of, tmp_path / "rendezvous", 2, prepared, tmp_path / "two")
    assert_near(tmp_path / "two", tmp_path / "one")


def part_of_a_table(rank, world, most, out):
    """Train a table by rows, each worker with every second of a step's items."""
    model = Table()
    workers = Workers(rank, world, torch.device("cpu"))
    rows = ItemRows(model.embedding.weight, make_optimizer(model, OptimConfig()), workers, most)
    for step in range(10):
        items, factors = drawn(step)
        own = (
            slice(rank, None, world) if step % 2 else slice(rank, rank + 1 + 6 * rank)
        )  # of different lengths, too
        (torch.cat(rows.look_up(items[own])) * factors[own]).sum().backward()
        rows.collect()
        rows.share()
        rows.merge()
        rows.update(torch.tensor(1.0), torch.tensor(0.0))
        rows.settled = False
    torch.save(rows.settled_table(), out / f"{most}-{rank}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("most", [None, 9])
def test_two_workers_share_rows_of_any_number_or_a_fixed_one(tmp_path, most):
    run_pair(part_of_a_table, tmp_path / "rendezvous", 2, most, tmp_path)
    found = [torch.load(tmp_path / f"{most}-{rank}") for rank in (0, 1)]
    assert torch.equal(*found)
    model = Table()
    optimizer = make_optimizer(model, OptimConfig())
    for step in range(10):
        optimizer.zero_grad()
        items, factors = drawn(step)
        (F.embedding(items, model.embedding.weight, padding_idx=0) * factors).sum().backward()
        optimizer.step()
    torch.testing.assert_close(found[0], model.embedding.weight.detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.kind": "cross_entropy"}, "loss.kind=cross_entropy reads other rows"),
        ({"optim.ema": 0.9}, "optim.ema moves every row"),
        ({"model.item_attributes": True}, "item_attributes adds to every row"),
        ({"model.members": 2}, "have a table each"),
        ({"train.compile": True}, "train.compile"),
        ({"optim.betas": [0.99, 0.9]}, "move on without end"),
    ],
)
def test_what_needs_the_whole_table_is_refused_and_left_alone_by_auto(changes, message):
    config = override(preset("debug"), TOUCHED | changes)
    model = make_model(config.model, ITEMS)
    with pytest.raises(ConfigError, match=message):
        choose_rows(config, model)
    assert not choose_rows(override(config, {"optim.item_updates": "auto"}), model)


def test_auto_takes_rows_for_a_catalogue_that_is_large_beside_a_step():
    config = override(preset("debug"), SAMPLED | {"train.batch_size": 1, "data.max_len": 10})
    few, many = (make_model(config.model, items) for items in (4 * 40 - 1, 4 * 40))
    assert [choose_rows(config, model) for model in (few, many)] == [False, True]
    assert not choose_rows(override(config, {"optim.item_updates": "all"}), many)
