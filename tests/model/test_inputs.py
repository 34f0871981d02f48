"""Inputs beside the item: what each changes, where its codes begin, and that none of them is on by itself."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from ss4rec.config import ModelConfig
from ss4rec.errors import UsageError
from ss4rec.model.inputs import (
    DATE_KNOTS,
    FIRST_KNOT_HOUR,
    GAP_CODES,
    KNOT_HOURS,
    RATING_CODES,
    WIDTHS,
    Context,
    EventInputs,
)
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import paper

ALL = tuple(WIDTHS)
SMALL = {"dim": 8, "blocks": 1, "time_states": 4, "relation_states": 2, "dropout": 0.0}
SEGMENTS = Segments.from_lengths([4, 2])
ITEMS, GAPS = torch.tensor([3, 5, 3, 7, 1, 2]), torch.tensor([0.0, 60.0, 1e6, 3.0, 0.0, 9.0])


def context(**changes):
    fields = {
        "hours_T": torch.tensor([265_751 + k for k in range(6)]),
        "ratings_T": torch.tensor([5.0, 0.5, 3.0, 4.0, float("nan"), 1.0]),
        "profiles_TF": torch.tensor([[1, 5]] * 4 + [[2, 0]] * 2),
    }
    return Context(**(fields | changes))


def make(**changes):
    torch.manual_seed(0)
    model = SS4Rec(ModelConfig(**SMALL, **changes), num_items=12).eval()
    if model.inputs is not None:
        torch.nn.init.normal_(model.inputs.table)
    return model


def vectors(name, gaps=GAPS, **changes):
    """What one input adds to each event, and its table."""
    module = EventInputs(ModelConfig(**SMALL, inputs=(name,)))
    torch.nn.init.normal_(module.table)
    return module(gaps, context(**changes)), module.table


def test_the_published_model_has_none_and_a_new_one_starts_as_if_it_had_none():
    assert paper().model.inputs == ()
    plain, with_inputs = make(), make(inputs=ALL)
    torch.nn.init.zeros_(with_inputs.inputs.table)
    expected = plain.encode(ITEMS, GAPS, SEGMENTS)
    assert torch.equal(plain.encode(ITEMS, GAPS, SEGMENTS, context()), expected)
    assert torch.equal(with_inputs.encode(ITEMS, GAPS, SEGMENTS, context()), expected)


def test_ratings_select_half_steps_and_an_unknown_rating_adds_nothing():
    added, table = vectors("rating", ratings_T=torch.tensor([0.0, 0.5, 3.0, 5.0, float("nan"), 99.0]))
    rows = [1, 2, 7, 11, None, RATING_CODES - 1]
    expected = torch.stack([torch.zeros(8) if row is None else table[row] for row in rows])
    torch.testing.assert_close(added, expected)


def test_gaps_select_half_octaves():
    added, table = vectors("gap", gaps=torch.tensor([0.0, 1.0, 2.0, 60.0, 86400.0, 1e30]))
    torch.testing.assert_close(added, table[[0, 2, 3, 11, 32, GAP_CODES - 1]])


def test_dates_are_interpolated_between_knots_and_stay_inside_the_table():
    steps = torch.tensor([0.0, 0.25, 7.0, 7.5, -3.0, 10_000.0], dtype=torch.float64)
    added, table = vectors("date", hours_T=(FIRST_KNOT_HOUR + steps * KNOT_HOURS).long())
    middle = [table[0], 0.75 * table[0] + 0.25 * table[1], table[7], (table[7] + table[8]) / 2, table[0]]
    torch.testing.assert_close(added[:5], torch.stack(middle))
    torch.testing.assert_close(added[5], table[DATE_KNOTS - 1], atol=0.02, rtol=0.02)


def test_clock_adds_an_hour_and_a_weekday():
    monday_noon = 946_900_800 // 3600  # 2000-01-03 12:00 UTC; 1970-01-01, weekday 0 here, was a Thursday
    added, table = vectors("clock", hours_T=torch.full((6,), monday_noon))
    torch.testing.assert_close(added[0], table[12] + table[24 + 4])


def test_profiles_add_a_vector_for_each_known_code():
    added, table = vectors("profile")
    torch.testing.assert_close(added[0], table[1] + table[5])
    torch.testing.assert_close(added[4], table[2])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rating", {"ratings_T": torch.full((6,), 2.0)}),
        ("clock", {"hours_T": torch.full((6,), 300_000)}),
        ("date", {"hours_T": torch.full((6,), 300_000)}),
        ("profile", {"profiles_TF": torch.full((6, 2), 9)}),
    ],
)
def test_each_input_reads_its_own_field_only(name, change):
    model = make(inputs=(name,))
    before = model.encode(ITEMS, GAPS, SEGMENTS, context())
    assert not torch.allclose(model.encode(ITEMS, GAPS, SEGMENTS, context(**change)), before)
    others = {
        "hours_T": torch.full((6,), 1),
        "ratings_T": torch.zeros(6),
        "profiles_TF": torch.zeros(6, 2).long(),
    }
    unread = {key: value for key, value in others.items() if key not in change}
    assert torch.equal(model.encode(ITEMS, GAPS, SEGMENTS, context(**unread)), before)


def test_a_prefix_gives_the_same_states_and_every_row_of_the_table_can_learn():
    model = make(inputs=ALL)
    whole = model.encode(ITEMS, GAPS, SEGMENTS, context())
    cut = Context(*(getattr(context(), name)[:3] for name in ("hours_T", "ratings_T", "profiles_TF")))
    torch.testing.assert_close(whole[:3], model.encode(ITEMS[:3], GAPS[:3], Segments.from_lengths([3]), cut))
    module = EventInputs(ModelConfig(**SMALL, inputs=("gap",)))
    module(GAPS, context()).sum().backward()
    codes = torch.tensor([0, 11, 39, 4, 0, 6])
    naive = torch.zeros(GAP_CODES, 8, requires_grad=True)
    F.embedding(codes, naive).sum().backward()
    torch.testing.assert_close(module.table.grad, naive.grad)


def test_what_is_missing_is_refused():
    model = make(inputs=("profile",))
    with pytest.raises(UsageError, match="reads profile of every event; pass a Context"):
        model.encode(ITEMS, GAPS, SEGMENTS)
    with pytest.raises(UsageError, match="these data have none"):
        model.encode(ITEMS, GAPS, SEGMENTS, context(profiles_TF=torch.zeros(6, 0).long()))
    with pytest.raises(ValidationError, match="each input may be named once"):
        ModelConfig(inputs=("gap", "gap"))
