"""Kernels are compiled before they are launched, each once; and nothing is launched meanwhile."""

import threading
from contextlib import closing

import pytest
import torch

from ss4rec.config import override
from ss4rec.kernels import launch as launching
from ss4rec.kernels.launch import compile_together, launch
from ss4rec.presets import preset
from ss4rec.train.loop import seed_step
from ss4rec.train.prefetch import Prefetcher
from ss4rec.train.worker import loop_alone


class Kernel:
    """Stands for a function under `triton.jit`; notes what is done with it."""

    def __init__(self):
        self.launched, self.compiled, self.threads = [], [], set()

    def __getitem__(self, grid):
        return lambda *args, **options: self.launched.append((grid, args, options))

    def warmup(self, *args, grid, **options):
        self.compiled.append((grid, args, options))
        self.threads.add(threading.get_ident())


def test_a_launch_launches():
    kernel = Kernel()
    launch(kernel, (3,), 1, 2, BLOCK=4)
    assert kernel.launched == [((3,), (1, 2), {"BLOCK": 4})]
    assert kernel.compiled == []


def test_different_kernels_are_compiled_once_and_nothing_is_launched():
    kernel, other = Kernel(), Kernel()
    floats, halves = torch.zeros(64), torch.zeros(64, dtype=torch.bfloat16)

    def work():
        for tensor in (floats, floats.clone(), halves, floats[1:]):  # the last is not aligned
            launch(kernel, (1,), tensor, 64, BLOCK=4)
        launch(kernel, (1,), floats, 65, BLOCK=4)
        launch(kernel, (1,), floats, 64, BLOCK=8)
        launch(other, (1,), floats, 64, BLOCK=4)

    assert compile_together(work) == 6
    assert (len(kernel.compiled), len(other.compiled)) == (5, 1)
    assert kernel.launched == other.launched == []
    assert threading.get_ident() not in kernel.threads
    launch(kernel, (1,), 1)
    assert len(kernel.launched) == 1


def test_launches_of_other_threads_are_noted_too():
    """Autograd runs backward passes of a GPU in a thread of its own."""
    kernel = Kernel()

    def work():
        thread = threading.Thread(target=launch, args=(kernel, (1,), 5))
        thread.start()
        thread.join()

    assert compile_together(work) == 1
    assert kernel.launched == []


@pytest.mark.parametrize("at", ["work", "compiler"])
def test_after_an_error_kernels_are_launched_again(at):
    kernel = Kernel()

    def fail(*args, **options):
        raise ValueError(at)

    kernel.warmup = fail
    with pytest.raises(ValueError, match=at):
        compile_together(fail if at == "work" else lambda: launch(kernel, (1,), 5))
    launch(kernel, (1,), 5)
    assert len(kernel.launched) == 1


def test_it_does_not_nest():
    with pytest.raises(RuntimeError, match="around all of it"):
        compile_together(lambda: compile_together(int))
    assert launching._noted is None


def test_work_without_kernels_compiles_nothing():
    assert compile_together(int) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", ["yes", "no"])
@pytest.mark.parametrize("name", ["debug", "ml_1m_best"])
def test_the_first_step_finds_all_its_kernels_compiled(prepared, tmp_path, monkeypatch, name, graphs):
    from triton.runtime.jit import JITFunction

    config = override(
        preset(name),
        {
            "tracking.wandb": "disabled",
            "data.source": "local",
            "train.batch_size": 16,
            "train.cuda_graphs": graphs,
            "model.item_attributes": False,
        },
    )
    compile_one, names = JITFunction._do_compile, []

    def watched(self, *args, **options):
        names.append(self._fn_name)
        return compile_one(self, *args, **options)

    with loop_alone(config, prepared, tmp_path / "run", torch.device("cuda")) as loop:
        batches = loop.source.train_batches(0, 0, 1)
        with closing(iter(Prefetcher(batches, loop.workers.device, loop.stager))) as prefetched:
            batch = next(prefetched)
            assert loop.take_step.compile_kernels(batch) > 8
            monkeypatch.setattr(JITFunction, "_do_compile", watched)
            seed_step(0, 0, 0)
            loop.take_step(batch, 0, 1e-3)
            assert torch.isfinite(loop.take_step.loss)
    assert names == []
