"""Logits of held items by count and age: against the whole matrix of logits, event by event."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ss4rec.config import LossConfig, ModelConfig
from ss4rec.errors import UsageError
from ss4rec.model.habits import AGES, COUNTS, Asked, Events, Habits, habit_cross_entropy
from ss4rec.model.item_scores import SeenItems
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import make_model
from ss4rec.train.objective import Objective

LENGTHS = [6, 1, 9]
ITEMS = torch.tensor([3, 5, 3, 3, 2, 5, 7, 1, 4, 1, 1, 8, 4, 1, 1, 1])
GAPS = torch.tensor([0.0, 60, 90, 86400, 0, 5, 0, 7, 7, 0, 0, 1e6, 3600, 3, 0, 2])
TARGETS = torch.tensor([5, 3, 3, 2, 5, 6, 7, 0, 1, 1, 8, 4, 1, 1, 1, 4])
SEGMENTS = Segments.from_lengths(LENGTHS)
DIM, NUM_ITEMS = 6, 8


def drawn_habits(target_time: bool) -> Habits:
    habits = Habits(DIM, NUM_ITEMS, target_time).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in habits.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return habits


def naive_logits(habits: Habits, hidden: torch.Tensor, first: int, t: int) -> dict[int, torch.Tensor]:
    """Return the logit of every item that the history `first..t` holds, from plain loops."""
    times = [0.0]
    for gap in GAPS[first : t + 1] if habits.target_time else GAPS[first + 1 : t + 1]:
        times.append(times[-1] + float(gap))
    query = times[t + 1 - first] if habits.target_time else times[t - first]
    found = {}
    for item in set(ITEMS[first : t + 1].tolist()):
        places = [s for s in range(first, t + 1) if int(ITEMS[s]) == item]
        age = int(math.log2(1 + query - times[places[-1] - first]))
        count = {1: 0, 2: 1, 3: 2, 4: 2}.get(len(places), 3)
        back = int(math.log2(1 + t - places[-1]))
        found[item] = (
            10 * habits.base
            + 4 * (habits.table[count * AGES + age] + habits.places[back])
            + habits.items[item, 0]
            + hidden[t] @ habits.state
        )
    return found


@pytest.mark.parametrize("target_time", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradients_are_those_of_the_whole_softmax(target_time, smoothing):
    habits = drawn_habits(target_time)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(len(ITEMS), DIM, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(NUM_ITEMS + 1, DIM, generator=generator, dtype=torch.float64, requires_grad=True)
    leaves = [hidden, weight, *habits.parameters()]
    expected = torch.zeros((), dtype=torch.float64)
    for first, stop in zip(SEGMENTS.host_offsets_S1[:-1], SEGMENTS.host_offsets_S1[1:], strict=True):
        for t in range(int(first), int(stop)):
            if TARGETS[t] == 0:
                continue
            plain = weight[1:] @ hidden[t]
            own = torch.zeros(NUM_ITEMS, dtype=torch.float64)
            for item, logit in naive_logits(habits, hidden, int(first), t).items():
                own = own + logit * F.one_hot(torch.tensor(item - 1), NUM_ITEMS)
            expected = expected + (plain + own).logsumexp(0) - (1 - smoothing) * (plain + own)[TARGETS[t] - 1]
            expected = expected - smoothing * plain.mean()
    events = Events(ITEMS, GAPS, SEGMENTS)
    found = habit_cross_entropy(
        hidden, weight, TARGETS, habits, events, chunk_tokens=4, label_smoothing=smoothing
    )
    assert torch.allclose(found, expected, rtol=1e-10)
    for mine, theirs in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("members", [1, 2])
def test_ranking_adds_what_training_added(members):
    config = ModelConfig(
        dim=DIM, blocks=1, time_states=4, relation_states=2, repeats="habits", members=members
    )
    torch.manual_seed(0)
    model = make_model(config, NUM_ITEMS, target_time=False).double().eval()
    for member in model.members:
        member.habits.load_state_dict(drawn_habits(False).state_dict())
    hidden = model.encode(ITEMS, GAPS.double(), SEGMENTS)
    last = hidden[SEGMENTS.last_S]
    older = torch.tensor([6])  # the first user took item 6 before the window
    seen = torch.cat([older, ITEMS])
    offsets = torch.tensor([0, 7, 8, 17])
    asked = Asked.after(Events(ITEMS, GAPS, SEGMENTS))
    scores = model.scores(last, seen, offsets, asked).matrix()
    plain = last @ model.item_matrix().T
    for row, (first, stop) in enumerate(
        zip(SEGMENTS.host_offsets_S1, SEGMENTS.host_offsets_S1[1:], strict=False)
    ):
        own = torch.zeros(NUM_ITEMS + 1, dtype=torch.float64)
        for part, member in zip(hidden.chunk(members, dim=1), model.members, strict=True):
            logits = naive_logits(member.habits, members * part, int(first), int(stop) - 1)
            for item, logit in logits.items():
                own[item] += logit / members
        if row == 0:
            habits = model.members[0].habits
            own[6] = 10 * habits.base + 4 * habits.table.view(COUNTS, AGES)[0, -8:].mean()
        assert torch.allclose(scores[row, 1:], (plain[row] + own)[1:], rtol=1e-9)


def test_items_without_events_are_refused():
    config = ModelConfig(dim=DIM, blocks=1, time_states=4, relation_states=2, repeats="habits")
    model = make_model(config, NUM_ITEMS)
    with pytest.raises(UsageError, match="pass the events"):
        model.scores(torch.zeros(1, DIM), torch.tensor([1]), torch.tensor([0, 1]))


def test_an_objective_trains_every_habit():
    config = ModelConfig(dim=DIM, blocks=1, time_states=4, relation_states=2, repeats="habits")
    torch.manual_seed(0)
    model = make_model(config, NUM_ITEMS)
    Objective(model, LossConfig())(ITEMS, GAPS, TARGETS, SEGMENTS).backward()
    for name, parameter in model.habits.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_pairs_that_are_not_there_are_not_found():
    seen = SeenItems(torch.tensor([2, 5, 2]), torch.tensor([0, 2, 3]), 9, "cpu")
    place, known = seen.find(torch.tensor([0, 1, 1, 1]), torch.tensor([5, 2, 5, 8]))
    assert known.tolist() == [True, True, False, False]
    assert (seen._row_P[place[:2]].tolist(), seen._item_P[place[:2]].tolist()) == ([0, 1], [5, 2])
