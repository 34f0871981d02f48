"""Several members, item attributes and skipped layers."""

import pytest
import torch

from ss4rec.config import LossConfig, ModelConfig
from ss4rec.kernels.layer_torch import drop
from ss4rec.model.inputs import ATTRIBUTE_COLUMNS
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import Ensemble, SS4Rec, make_model
from ss4rec.presets import paper
from ss4rec.train.objective import Objective

SMALL = {"dim": 8, "blocks": 1, "time_states": 4, "relation_states": 2, "dropout": 0.0, "init_std": 0.5}
ITEMS, TARGETS = torch.tensor([3, 5, 3, 7, 1, 2]), torch.tensor([5, 3, 7, 0, 2, 9])
GAPS = torch.tensor([0.0, 60.0, 9.0, 3.0, 0.0, 9.0])
SEGMENTS = Segments.from_lengths([4, 2])
SEEN = (torch.tensor([3, 5, 7, 1, 2]), torch.tensor([0, 3, 5]))


def make(**changes):
    torch.manual_seed(0)
    return make_model(ModelConfig(**(SMALL | changes)), num_items=12).double().eval()


def scores(model):
    return model.scores(model.encode(ITEMS, GAPS.double(), SEGMENTS)[SEGMENTS.last_S], *SEEN).matrix()


def test_the_published_model_is_alone():
    assert (paper().model.members, paper().model.item_attributes, paper().model.layer_dropout) == (
        1,
        False,
        0,
    )
    assert isinstance(make(), SS4Rec)


@pytest.mark.parametrize("repeats", ["ignore", "learned"])
def test_an_ensemble_scores_the_mean_of_its_members(repeats):
    model = make(members=3, repeats=repeats)
    assert isinstance(model, Ensemble)
    if repeats == "learned":
        for value, member in enumerate(model.members):
            torch.nn.init.constant_(member.repeat_parameter, value)
    each = [scores(member) for member in model.members]
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(scores(model), torch.stack(each).mean(0))


def test_members_learn_on_their_own():
    model = make(members=2)
    Objective(model, LossConfig())(ITEMS, GAPS.double(), TARGETS, SEGMENTS).backward()
    for member in model.members:
        together = {name: p.grad.clone() for name, p in member.named_parameters()}
        member.zero_grad()
        Objective(member, LossConfig())(ITEMS, GAPS.double(), TARGETS, SEGMENTS).backward()
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(2 * together[name], parameter.grad, msg=name)


def test_attributes_are_added_to_rows_as_input_and_as_candidate():
    plain, model = make(), make(item_attributes=True)
    assert torch.equal(scores(plain), scores(model))
    attributes = torch.zeros(13, ATTRIBUTE_COLUMNS)
    attributes[3, [0, 40]] = attributes[5, 1] = 1
    model.set_item_attributes(attributes)
    torch.nn.init.normal_(model.attributes.table)
    with torch.no_grad():
        plain.embedding.weight += attributes.double() @ model.attributes.table
    assert torch.equal(plain.item_matrix()[0], torch.zeros(8).double())
    torch.testing.assert_close(scores(plain), scores(model))


def test_events_skip_layers_and_the_mean_stays():
    dropped = drop(torch.ones(4000, 8, dtype=torch.float64), 0.0, 0.5)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()  # a whole event at a time
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)


def test_nothing_is_dropped_outside_training():
    model = make(dropout=0.5, layer_dropout=0.5)
    assert torch.equal(scores(model), scores(model))
    model.train()
    assert not torch.equal(scores(model), scores(model))
