"""Two processes take the step that one would take: the loss is a mean over the targets of all workers."""

import pytest
import torch

from ss4rec.config import override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.group import Workers
from ss4rec.train.loop import seed_step
from ss4rec.train.validation import Validation
from ss4rec.train.worker import build_loop
from tests.group import run_pair


def config():
    # No dropout: random numbers are each worker's own. Clipping, since Adam alone hides a gradient's scale.
    changes = {"model.dropout": 0.0, "train.epochs": 1, "tracking.wandb": "disabled", "optim.clip_norm": 1.0}
    return override(preset("debug"), changes)


def train(rank, world, prepared, run):
    settings = config()
    workers = Workers(rank, world, torch.device("cpu"))
    source = LocalSource(
        prepared,
        settings.data,
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        rank=rank,
        world=world,
    )
    build_loop(settings, run, workers=workers, source=source).run()


@pytest.mark.timeout(900)
def test_two_workers_end_with_the_weights_and_metrics_of_one(prepared, tmp_path):
    for world in (1, 2):
        run = RunFolder(tmp_path / str(world))
        run.start(config(), PreparedFolder.open(prepared))
        if world == 1:
            train(0, world, prepared, run.path)
        else:
            run_pair(train, tmp_path / "rendezvous", world, prepared, run.path)
    one, two = (
        checkpoint.best(RunFolder(tmp_path / str(world)).checkpoints).model_tensors() for world in (1, 2)
    )
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-3, atol=2e-5, msg=name)
    alone, shared = (RunFolder(tmp_path / str(world)).metrics()[-1] for world in (1, 2))
    assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    assert shared["valid_hr@10"] == pytest.approx(alone["valid_hr@10"], abs=0.02)


def test_validation_equals_the_evaluator(prepared, tmp_path):
    settings = config()
    source = LocalSource(prepared, settings.data, batch_size=32, seed=0)
    model = SS4Rec(settings.model, Manifest.load(prepared).items).eval()
    with torch.inference_mode():
        found = Validation(model, source, Workers(0, 1, torch.device("cpu")), settings.evaluation)()
    scorer = ModelScorer(model, 0.0, settings.data.target_time)
    result = summarise(rank_users(scorer, source.eval_batches("valid", 64)), (10,))
    for seen, suffix in (("kept", ""), ("excluded", "_unseen")):
        expected = result.setting(seen, "known").metrics
        names = {"hr": "HR@10", "ndcg": "NDCG@10", "mrr": "MRR@10"}
        assert {key: found[f"{key}@10{suffix}"] for key in names} == pytest.approx(
            {key: expected[name] for key, name in names.items()}
        )


def test_random_numbers_differ_between_steps_seeds_and_ranks():
    def draw(*place):
        seed_step(*place)
        return torch.rand(4).tolist()

    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    assert len({tuple(draw(*place)) for place in places}) == 4
    assert draw(0, 5, 1) == draw(0, 5, 1)


def test_the_best_checkpoint_is_what_loads(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(config(), PreparedFolder.open(prepared))
    train(0, 1, prepared, run.path)
    model, _ = load_model(run.path)
    saved = checkpoint.best(run.checkpoints).model_tensors()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


class OtherHalf(Workers):
    """Worker 0 of 2, whose collective adds what worker 1 would send."""

    sent = None

    def sum_(self, tensor):
        return tensor.add_(self.sent)


def test_validation_adds_the_users_of_all_workers(prepared):
    settings, device = config(), torch.device("cpu")
    model = SS4Rec(settings.model, Manifest.load(prepared).items).eval()

    def validate(workers):
        source = LocalSource(
            prepared, settings.data, batch_size=32, seed=0, rank=workers.rank, world=workers.world
        )
        with torch.inference_mode():
            return Validation(model, source, workers, settings.evaluation)()

    class Sender(Workers):
        def sum_(self, tensor):
            OtherHalf.sent = tensor.clone()
            return tensor

    validate(Sender(1, 2, device))
    assert validate(OtherHalf(0, 2, device)) == pytest.approx(validate(Workers(0, 1, device)))
