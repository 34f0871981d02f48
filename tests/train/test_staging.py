"""Batches of fixed shape: filled up without a change to what they hold; on a GPU replayed steps equal launched ones."""

import gc
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from ss4rec.config import override
from ss4rec.data.batches.batch import PackedBatch
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.presets import preset
from ss4rec.runs.folder import RunFolder
from ss4rec.train.fixed_shapes import Stager
from ss4rec.train.step import StepGraphs
from ss4rec.train.worker import loop_alone


def draw(lengths):
    tokens = sum(lengths)
    targets = torch.randint(0, 9, (tokens,))
    return PackedBatch(
        users_S=torch.arange(len(lengths)),
        items_T=torch.randint(1, 9, (tokens,)),
        targets_T=targets,
        gaps_T=torch.rand(tokens),
        hours_T=torch.randint(0, 10**6, (tokens,)),
        ratings_T=torch.rand(tokens),
        profiles_TF=torch.randint(0, 9, (tokens, 3)),
        offsets_S1=torch.tensor([0, *lengths]).cumsum(0),
        rows_R=targets.nonzero().squeeze(1),
    )


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [1, 7, 2, 6], [3] * 200, [7] * 365, [7] * 366])
def test_filled_up_batches_hold_the_same_and_nothing_else(lengths):
    torch.manual_seed(len(lengths))
    stager, batch = Stager(max_windows=len(lengths) + 2, max_len=7), draw(lengths)
    shape = stager.shape(batch)
    words = torch.full((shape.words,), -77, dtype=torch.int32)
    stager.fill(batch, shape, words)
    inputs = stager.views(words, shape)
    for name in ("items_T", "targets_T", "gaps_T", "hours_T", "ratings_T", "profiles_TF"):
        values = getattr(inputs if hasattr(inputs, name) else inputs.context, name)
        assert torch.equal(values[: batch.num_tokens].to(getattr(batch, name).dtype), getattr(batch, name))
        assert not values[batch.num_tokens :].any()
    assert torch.equal(inputs.rows_R[: batch.num_targets].long(), batch.rows_R)
    assert bool((inputs.rows_R[batch.num_targets :] == -1).all())
    offsets = inputs.segments.offsets_S1.long()
    assert torch.equal(offsets[: len(lengths) + 1], batch.offsets_S1)
    assert int(offsets[-1]) == shape.tokens == inputs.segments.num_tokens
    assert bool(((offsets.diff() >= 0) & (offsets.diff() <= 7)).all())
    assert inputs.segments.num_sequences == shape.sequences == len(offsets) - 1


def test_few_shapes_hold_all_batches():
    stager = Stager(max_windows=256, max_len=200)
    shapes = {stager.shape(draw([length] * 256)) for length in range(130, 190, 3)}
    assert len(shapes) < 30
    assert stager.step <= 0.05 * 256 * 200


def _course(prepared, run, device, **changes):
    """Train two epochs on a GPU and return losses, weights and what the record says of steps."""
    fields = {"tracking.wandb": "disabled", "train.epochs": 6, "train.patience": 0, "model.repeats": "learned",
              "optim.clip_norm": 1.0, "optim.ema": 0.9, "loss.label_smoothing": 0.1, "model.dropout": 0.0}  # fmt: skip
    config = override(preset("debug"), fields | changes)
    with loop_alone(config, prepared, run, device) as loop:
        loop.run()
        weights = {name: tensor.cpu() for name, tensor in loop.model.state_dict().items()}
    rows = [row["train_loss"] for row in RunFolder(run).metrics() if row["kind"] == "epoch"]
    return rows, weights, RunFolder(run).record().backends["steps"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "members"), [("float32", 1), ("bf16", 1), ("float32", 3), ("bf16", 4)])
def test_replayed_steps_equal_launched_ones(prepared, tmp_path, precision, members):
    device = torch.device("cuda")
    shape = {"train.precision": precision, "model.members": members}
    assert Manifest.load(prepared).items > 0
    courses = {
        name: _course(prepared, tmp_path / name, device, **{"train.cuda_graphs": name} | shape)
        for name in ("yes", "no")
    }
    again = _course(prepared, tmp_path / "again", device, **{"train.cuda_graphs": "yes"} | shape)
    (replayed, weights, how), (launched, _, other) = courses["yes"], courses["no"]
    assert (how, other) == ("CUDA graphs", "eager")
    assert replayed == pytest.approx(launched, rel=2e-3 if precision == "bf16" else 1e-4)
    assert again[0] == replayed, "the same seed gives the same bits"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again[1].items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("members", [1, 2])
def test_a_replayed_training_that_goes_back_equals_a_launched_one(prepared, tmp_path, monkeypatch, members):
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 2)
    courses = []
    for name in ("yes", "no"):
        looks = []
        monkeypatch.setattr(
            "ss4rec.train.divergence.Course.diverged",
            lambda course, loss, looks=looks: looks.append(loss) or len(looks) == 8,
        )
        changes = {"train.cuda_graphs": name, "model.members": members, "train.precision": "float32"}
        losses, _, how = _course(prepared, tmp_path / name, torch.device("cuda"), **changes)
        assert how == ("CUDA graphs" if name == "yes" else "eager")
        assert len(looks) > 8
        courses.append(losses)
    assert courses[0] == pytest.approx(courses[1], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dropout_differs_between_replays(prepared, tmp_path):
    changes = {"model.dropout": 0.5, "train.cuda_graphs": "yes", "optim.lr": 1e-12, "train.epochs": 4}
    losses, _, _ = _course(prepared, tmp_path / "run", torch.device("cuda"), **changes)
    assert len(set(losses)) == 4


def test_no_garbage_is_collected_while_steps_are_captured(monkeypatch):
    """Freeing an earlier run's graphs or events ends a capture (seen once, in the third training of a process)."""
    allowed = []
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    for name in ("Stream", "CUDAGraph"):
        monkeypatch.setattr(f"torch.cuda.{name}", MagicMock())
    monkeypatch.setattr("torch.cuda.current_stream", MagicMock())
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.graph", lambda *args, **options: nullcontext())
    graphs = StepGraphs(None)
    for _ in range(3):  # launched, captured, replayed
        graphs.replay("shape", lambda: allowed.append(gc.isenabled()))
    assert allowed == [True, False]
    assert gc.isenabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capture_outlives_the_garbage_of_an_earlier_run():
    earlier = StepGraphs(None)
    big_N = torch.zeros(1 << 24, device="cuda")
    for _ in range(2):
        earlier.replay("shape", lambda: big_N.add_(1.0))
    garbage = [[earlier]]
    del earlier
    graphs, total = StepGraphs(None), torch.zeros(1, device="cuda")

    def step():
        if garbage:
            cycle = garbage.pop()
            cycle.append(cycle)
            del cycle
            gc.isenabled() and gc.collect()
        total.add_(1.0)

    def first():
        total.add_(1.0)

    graphs.replay("shape", first)
    graphs.replay("shape", step)
    graphs.replay("shape", step)
    assert total.item() == 3.0
