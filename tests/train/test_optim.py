"""Schedule, weight average and the guard against non-finite updates."""

import copy
import math

import pytest
import torch
from torch.nn.utils import get_total_norm

from ss4rec.config import ModelConfig, OptimConfig
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.train.optim import FiniteGuard, WeightAverage, lr_share, make_optimizer, set_rate


def test_schedule_warms_up_and_falls_to_its_floor():
    config = OptimConfig(warmup_steps=4, schedule="cosine", final_lr_share=0.1)
    shares = [lr_share(step, total_steps=20, config=config) for step in range(21)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1.0
    assert shares[12] == pytest.approx(0.1 + 0.9 * 0.5)
    assert shares[20] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(shares[4:], shares[5:], strict=False))
    assert lr_share(9, total_steps=20, config=OptimConfig()) == 1.0


def test_decay_applies_to_matrices_that_do_not_refuse_it():
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    model[1].weight.no_decay = True
    decayed, free = make_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert (decayed["weight_decay"], free["weight_decay"], len(free["params"])) == (0.1, 0.0, 3)


def test_average_follows_its_formula_and_swaps_back():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = WeightAverage(model, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    average.update()
    assert average.average[0].item() == pytest.approx(1.1)
    average.swap()
    assert model.weight.item() == pytest.approx(1.1)
    average.swap()
    assert model.weight.item() == 2.0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_guard_refuses_the_update_and_all_later_ones(poison, where):
    model = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(model, OptimConfig())
    guard = FiniteGuard(optimizer, torch.device("cpu"), allowed=0)
    weights = []
    for step in range(4):
        bad = step == 2
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, poison if bad and where == "gradient" else 1.0)
        loss = torch.tensor(poison if bad and where == "loss" else 1.0)
        guard.step(loss, get_total_norm(p.grad for p in model.parameters()), step)
        weights.append(copy.deepcopy(model.state_dict()))
    assert guard.first_bad_step == 2
    assert not torch.equal(weights[0]["weight"], weights[1]["weight"])
    assert torch.equal(weights[1]["weight"], weights[2]["weight"])
    assert torch.equal(weights[1]["weight"], weights[3]["weight"])


def test_guard_skips_as_many_as_it_is_allowed():
    model = torch.nn.Linear(2, 2)
    guard = FiniteGuard(make_optimizer(model, OptimConfig()), torch.device("cpu"), allowed=2)
    for step, loss in enumerate([1.0, math.nan, 1.0, math.nan, 1.0, math.nan]):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        guard.step(torch.tensor(loss), get_total_norm(p.grad for p in model.parameters()), step)
        assert guard.first_bad_step == (5 if step == 5 else None)
    assert guard.bad_steps == 3


def test_rates_of_matrices_follow_the_width():
    config = OptimConfig(lr=1e-3, base_dim=16)
    narrow, wide = (
        make_optimizer(
            SS4Rec(ModelConfig(dim=dim, blocks=1, expand=4, time_states=4, relation_states=2), 5), config
        )
        for dim in (16, 32)
    )
    assert {group["lr"] for group in wide.param_groups} == {1e-3, 5e-4, 2.5e-4}
    assert {group["lr"] for group in narrow.param_groups} == {
        1e-3,
        5e-4,
    }  # only what has more than 2 dim inputs
    set_rate(wide, 1.0)
    assert {group["lr"] for group in wide.param_groups} == {1.0, 0.5, 0.25}
    free = [group for group in wide.param_groups if group["params"][0].ndim == 1]
    assert all(group["lr"] == 1.0 for group in free)
