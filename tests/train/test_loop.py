"""The loop: the same seed gives the same weights, a resumed run equals one that never stopped, NaN stops it."""

import json

import pytest
import torch

from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.errors import CheckpointError, NonFiniteError
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.train.group import Workers
from ss4rec.train.loop import TrainLoop, seed_step
from ss4rec.train.objective import Objective
from ss4rec.train.validation import Validation

ALONE = Workers(0, 1, torch.device("cpu"))


class KilledError(Exception):
    """Stands for a kill in the middle of a run."""


def make(prepared, folder, *, die_at=None, poison_at=None, objective=None, **changes) -> TrainLoop:
    fields = {
        "tracking.wandb": "disabled",
        "train.epochs": 3,
        "train.patience": 0,
        "train.checkpoint_every_s": 0,
    }
    config: RunConfig = override(preset("debug"), fields | changes)
    manifest = Manifest.load(prepared)
    run = RunFolder(folder)
    run.start(config, PreparedFolder.open(prepared))
    seed_step(config.train.seed, 0, 0)
    model = SS4Rec(config.model, manifest.items)
    source = LocalSource(prepared, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    wrapped = Objective(model, config.loss)
    loop = TrainLoop(
        config,
        wrapped,
        source,
        ALONE,
        run,
        Validation(model, source, ALONE, config.evaluation),
        identity={"fingerprint": config.fingerprint()},
    )
    if die_at is not None or poison_at is not None:
        forward = wrapped.forward

        def tampered(*args):
            if loop.global_step == die_at:
                raise KilledError
            return forward(*args) * (float("nan") if loop.global_step == poison_at else 1.0)

        wrapped.forward = tampered
    return loop


def final_weights(folder):
    return checkpoint.last(RunFolder(folder).checkpoints)[0].model_tensors()


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "changes", [{}, {"optim.ema": 0.9, "optim.clip_norm": 0.5}], ids=["plain", "ema-clip"]
)
def test_same_seed_same_weights_and_any_stop_continues_exactly(prepared, tmp_path, changes):
    whole = make(prepared, tmp_path / "whole", **changes)
    outcome = whole.run()
    assert outcome.epochs == 3
    steps = whole.steps_per_epoch
    assert steps >= 4
    for name, die_at in {"middle": steps + 2, "boundary": 2 * steps}.items():
        with pytest.raises(KilledError):
            make(prepared, tmp_path / name, die_at=die_at, **changes).run()
        resumed = make(prepared, tmp_path / name, **changes)
        assert resumed.run().global_step == outcome.global_step
        assert_equal(final_weights(tmp_path / name), final_weights(tmp_path / "whole"))
        assert_equal(resumed.model.state_dict(), whole.model.state_dict())
        rows = [row for row in resumed.folder.metrics() if row["kind"] == "epoch"]
        expected = [row for row in whole.folder.metrics() if row["kind"] == "epoch"]
        clocks = {"elapsed_s", "events_per_s"}
        timeless = [
            [{key: row[key] for key in row.keys() - clocks} for row in side] for side in (rows, expected)
        ]
        assert timeless[0] == timeless[1]


def test_another_seed_gives_other_weights(prepared, tmp_path):
    make(prepared, tmp_path / "a", **{"train.epochs": 1}).run()
    make(prepared, tmp_path / "b", **{"train.epochs": 1, "train.seed": 1}).run()
    left, right = final_weights(tmp_path / "a"), final_weights(tmp_path / "b")
    assert not all(torch.equal(left[name], right[name]) for name in left)


def test_nan_stops_before_the_update_and_names_the_batch(prepared, tmp_path):
    clean = make(prepared, tmp_path / "clean", **{"train.epochs": 1})
    clean.run()
    bad = make(prepared, tmp_path / "bad", poison_at=clean.steps_per_epoch + 1)
    with pytest.raises(NonFiniteError, match=r"epoch 2, step 1, first users \["):
        bad.run()
    assert checkpoint.last(bad.folder.checkpoints)[0].state["epoch"] == 1


def test_bad_steps_may_be_skipped_when_asked(prepared, tmp_path):
    loop = make(prepared, tmp_path / "run", poison_at=1, **{"train.skip_bad_steps": 1, "train.epochs": 1})
    loop.run()
    assert loop.folder.metrics()[-1]["bad_steps"] == 1


def test_patience_ends_training_and_the_ended_run_stays_ended(prepared, tmp_path):
    changes = {"train.epochs": 50, "train.patience": 1, "optim.lr": 1e-9}
    first = make(prepared, tmp_path / "run", **changes)
    outcome = first.run()
    assert outcome.epochs < 50
    assert "no better validation" in outcome.ended
    again = make(prepared, tmp_path / "run", **changes)
    assert again.run().epochs == outcome.epochs


def test_a_checkpoint_of_another_configuration_is_refused(prepared, tmp_path):
    make(prepared, tmp_path / "run", **{"train.epochs": 1}).run()
    loop = make(prepared, tmp_path / "run", **{"train.epochs": 1})
    loop.identity = {"fingerprint": "another"}
    with pytest.raises(CheckpointError, match="fingerprint"):
        loop.run()


def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(prepared, tmp_path, capsys):
    make(prepared, tmp_path / "whole").run()
    cut = make(prepared, tmp_path / "cut", die_at=10**9, **{"train.keep_checkpoints": 3})
    cut.run()
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"torn")
    make(prepared, tmp_path / "cut", **{"train.keep_checkpoints": 3}).run()
    assert newest.name in capsys.readouterr().out
    assert_equal(final_weights(tmp_path / "cut"), final_weights(tmp_path / "whole"))


def test_checkpoints_hold_no_pickle(prepared, tmp_path):
    make(prepared, tmp_path / "run", **{"train.epochs": 1}).run()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".parquet"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["preset"] == "debug"


def climbs_at(loop, *looks):
    """Let the course say at these looks, counted from 1, that the loss has climbed far above its best."""
    seen = []

    def diverged(loss):
        seen.append(loss)
        return len(seen) in looks

    loop.course.diverged = diverged
    return loop


def test_a_loss_that_climbs_goes_back_with_half_of_the_rate(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 2)
    loop = climbs_at(make(prepared, tmp_path / "run", **{"train.epochs": 4}), 6)
    outcome = loop.run()
    assert "Going back to step" in capsys.readouterr().out
    assert loop.returns == 1
    assert outcome.global_step == 4 * loop.steps_per_epoch
    rates = {group["lr"] for group in loop.take_step.optimizer.param_groups}
    assert rates == {0.5 * loop.config.optim.lr}
    epochs = [row["epoch"] for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "epoch"]
    assert epochs == [1, 2, 3, 4]


class EagerGraphs:
    """Graphs that capture nothing."""

    def fresh(self):
        return EagerGraphs()

    def compute(self, batch, function):
        function(batch.inputs)

    def replay(self, key, function):
        function()


def test_graphs_are_captured_anew_once_a_checkpoint_is_read(prepared, tmp_path, monkeypatch):
    """They would go on with the tensors that the optimizer had before: garbage, or memory of somebody else."""
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 2)
    loop = climbs_at(make(prepared, tmp_path / "run", **{"train.epochs": 4}), 6)
    first = loop.take_step._graphs = EagerGraphs()
    loop.run()
    assert loop.returns == 1
    assert loop.take_step._graphs is not first


def test_a_loss_that_keeps_climbing_ends_the_training_and_says_so(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 2)
    changes = {"train.epochs": 6, "train.divergence": "stop"}
    outcome = climbs_at(make(prepared, tmp_path / "run", **changes), 6).run()
    assert "diverges at a learning rate of" in outcome.ended
    assert outcome.best_epoch > 0


def test_a_loss_that_climbs_before_the_first_checkpoint_is_an_error(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 2)
    changes = {"train.checkpoint_every_s": 1000, "train.validate_every": 3}
    with pytest.raises(NonFiniteError, match="no checkpoint to go back to"):
        climbs_at(make(prepared, tmp_path / "run", **changes), 1).run()


def test_an_epoch_that_the_time_ends_is_validated_saved_and_not_begun_again(prepared, tmp_path):
    loop = make(prepared, tmp_path / "run")
    loop.pace.plan(loop.steps_per_epoch + 2)
    outcome = loop.run()
    assert (outcome.global_step, outcome.epochs) == (loop.steps_per_epoch + 2, 1)
    again = make(prepared, tmp_path / "run")
    assert again.run().global_step == outcome.global_step
    epochs = [row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert "valid_ndcg@10" in epochs[-1]
