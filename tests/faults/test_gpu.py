"""Exact resume on a GPU: rows 1 and 2 of docs/reliability.md."""

import pytest
import torch

from ss4rec.config import override
from ss4rec.presets import preset
from tests.faults.small import KilledError, equal, last_checkpoint, small, stop_before, train

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]


@pytest.fixture(autouse=True)
def undo_determinism():
    yield
    torch.use_deterministic_algorithms(False)


def configuration(model, deterministic):
    """The debug model, or the published one with dropout, average, clipping and a schedule; a few dozen steps."""
    if model == "debug":
        return small(**{"train.deterministic": deterministic})
    changes = {
        "tracking.wandb": "disabled",
        "data.source": "local",
        "optim.ema": 0.9,
        "optim.clip_norm": 1.0,
        "optim.schedule": "cosine",
        "train.epochs": 2,
        "train.patience": 0,
        "train.checkpoint_every_s": 0,
        "train.deterministic": deterministic,
    }
    return override(preset("paper"), changes)


def cut_and_continue(prepared, folder, config):
    """Train a run that nothing stops and one that is killed in the middle of its second epoch and continued."""
    whole = train(prepared, folder / "whole", config, device=DEVICE)
    steps = whole.global_step // config.train.epochs
    with pytest.MonkeyPatch.context() as patch:
        stop_before(patch, steps + steps // 2)
        with pytest.raises(KilledError):
            train(prepared, folder / "cut", config, device=DEVICE)
    train(prepared, folder / "cut", config, device=DEVICE)


@pytest.mark.parametrize("model", ["debug", "paper"])
def test_deterministic_run_is_continued_to_the_bit(prepared, tmp_path, model):
    """Rows 1, 2: with `train.deterministic` a run that was stopped in the middle of an epoch ends with the same bits
    of weights, moments and averages, and so does the same run in another process's place.

    Would fail without `use_deterministic_algorithms` where a kernel adds up in any order, and as on a CPU without
    `seed_step` (tests/faults/test_resume.py shows those guards).
    """
    config = configuration(model, deterministic=True)
    cut_and_continue(prepared, tmp_path, config)
    assert equal(tmp_path / "whole", tmp_path / "cut")
    train(prepared, tmp_path / "again", config, device=DEVICE)
    assert equal(tmp_path / "whole", tmp_path / "again")


def test_fast_run_is_continued_within_rounding(prepared, tmp_path):
    """Row 2: without it (CUDA graphs, kernels that add up in any order) weights agree within rounding.

    Would fail, as the test above, without the optimizer's state or the place in the order.
    """
    config = configuration("paper", deterministic=False)
    cut_and_continue(prepared, tmp_path, config)
    one, other = (last_checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert one.global_step == other.global_step
    for name, weights in one.model_tensors().items():
        torch.testing.assert_close(other.model_tensors()[name], weights, rtol=1e-2, atol=1e-3, msg=name)
