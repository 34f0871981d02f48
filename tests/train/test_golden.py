"""Two hundred steps of the published model on ML-1M: every backend follows the same course of the loss.

The golden file holds the loss of the CPU's reference implementation; `python -m tests.train.test_golden` writes it
anew.
"""

import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import torch

from ss4rec.config import override
from ss4rec.data.prepare.engine import prepare
from ss4rec.presets import preset
from ss4rec.train.loop import seed_step
from ss4rec.train.prefetch import Prefetcher
from ss4rec.train.worker import loop_alone

GOLDEN = Path(__file__).parent / "golden" / "paper-ml-1m-200-steps.json"
ARCHIVE = Path(os.environ.get("SS4REC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ml-1m.zip"
STEPS, EVERY = 200, 20
SAME, OTHER = 0.0005, 0.01
"""Largest relative difference of a mean over 20 steps, for the same implementation and for another one."""


def course(folder, device, steps=STEPS, **changes):
    """Return the mean loss of every 20 steps of the paper's model without dropout, whose random numbers differ."""
    data = folder / "ml-1m"
    if not data.exists():
        prepare(ARCHIVE, data)
    fields = {"tracking.wandb": "disabled", "data.source": "local", "model.dropout": 0.0, "train.seed": 1}
    config = override(preset("paper"), fields | changes)
    run = folder / "-".join([device, *map(str, changes.values())])
    losses = []
    with loop_alone(config, data, run, torch.device(device)) as loop:
        batches = loop.source.train_batches(0, 0, 1)
        with closing(iter(Prefetcher(batches, loop.workers.device, loop.stager))) as prefetched:
            for batch in prefetched:
                seed_step(config.train.seed, batch.step, 0)
                loop.take_step(batch, batch.step, config.optim.lr)
                losses.append(float(loop.take_step.loss))
                if len(losses) == steps:
                    break
    return torch.tensor(losses).view(-1, EVERY).mean(1).tolist()


def check(found, tolerance):
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["loss"][: len(found)], rel=tolerance)
    assert found[-1] < found[0] - 0.4, "the course falls"


@pytest.mark.realdata
@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs ML-1M; set SS4REC_DATA to the folder of its archive")
def test_the_cpu_follows_the_golden_course(tmp_path):
    """The first half of the course: a CPU takes 15 s for it.

    Seen to differ by more in that half: the gaps of the event before (.0013). On the machine that wrote the file it
    differs by 0.
    Another release of torch is another implementation: 2.11 differs from 2.13 by .0066.
    """
    same = json.loads(GOLDEN.read_text())["torch"] == torch.__version__.partition("+")[0]
    check(course(tmp_path, "cpu", STEPS // 2), SAME if same else OTHER)


on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or not ARCHIVE.exists(), reason="needs a CUDA device and ML-1M"
)


@pytest.mark.gpu
@pytest.mark.realdata
@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("graphs", ["yes", "no"])
def test_triton_follows_the_golden_course(tmp_path, precision, graphs):
    check(course(tmp_path, "cuda", **{"train.precision": precision, "train.cuda_graphs": graphs}), OTHER)


@pytest.mark.gpu
@pytest.mark.realdata
@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_mamba_ssm_follows_the_golden_course(tmp_path, precision):
    pytest.importorskip("mamba_ssm")
    fields = {"train.precision": precision, "model.relation_backend": "mamba_ssm"}
    check(course(tmp_path, "cuda", **fields), OTHER)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        record = {
            "command": "python -m tests.train.test_golden",
            "torch": torch.__version__.partition("+")[0],
            "loss": course(Path(scratch), "cpu"),
        }
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN}: {record['loss']}\n")
