"""What `auto` chooses: rules follow the facts, the user's own values stay, and everything has a reason."""

from dataclasses import replace

import pytest

from ss4rec.auto.choose import Machine, choose, density, usable_minutes
from ss4rec.auto.explain import explained, headline
from ss4rec.auto.look import Facts
from ss4rec.auto.resolve import Auto
from ss4rec.config import field_names
from ss4rec.protocol.named import named
from ss4rec.protocol.settings import Protocol

DENSE = Facts("films", 6040, 3416, 987_531, (94.0, 398.0, 781.0), 0.53, 1, 1038.0, 0.0, True, True)
SHOP = Facts("shop", 22_363, 12_101, 153_776, (4.0, 12.0, 30.0), 0.43, 86_400, 4424.0, 0.0, False, False)
GROCER = Facts("grocer", 2449, 28_164, 1_396_716, (387.0, 1333.0, 2330.0), 0.89, 1, 364.0, 0.43, False, False)
CARD, CORES = Machine(gpu=True, cores=16), Machine(gpu=False, cores=2)


def config_of(facts, machine=CARD, protocol=Protocol(), **options):  # noqa: B008 - frozen
    return choose(facts, machine, protocol, **options)[0]


def test_sparse_data_are_kept_from_being_learned_by_heart():
    sparse, dense = config_of(SHOP), config_of(DENSE)
    assert density(SHOP) < 0.1
    assert density(DENSE) == 1.0
    assert sparse.optim.weight_decay > 5 * dense.optim.weight_decay
    assert sparse.model.embedding_dropout > dense.model.embedding_dropout
    assert sparse.optim.lr < dense.optim.lr
    assert sparse.model.blocks < dense.model.blocks
    assert sparse.data.max_len == 50
    assert dense.data.max_len == 500


def test_density_in_between_gives_values_in_between():
    between = replace(DENSE, items=DENSE.events // 50)
    rates = [config_of(facts).optim.lr for facts in (SHOP, between, DENSE)]
    assert rates == sorted(rates)
    assert rates[0] < rates[1] < rates[2]


def test_habits_where_people_repeat_unless_seen_items_are_left_out():
    assert config_of(GROCER).model.repeats == "habits"
    assert config_of(DENSE).model.repeats == "learned"
    assert config_of(GROCER, protocol=named("s3rec")).model.repeats == "ignore"


def test_inputs_are_what_the_data_have():
    assert config_of(DENSE).model.inputs == ("rating", "gap", "clock", "date")
    assert config_of(SHOP).model.inputs == ("gap", "date")  # days have no hours
    # After a cut in time there are dates that never trained.
    assert "date" not in config_of(DENSE, protocol=named("time-to-split")).model.inputs


def test_columns_that_people_brought_are_read_and_cold_items_get_features():
    brought = replace(SHOP, item_features=("brand", "price"), context=("device",), cold=0.2)
    config, decisions = choose(brought, CARD, Protocol())
    assert (config.model.item_features, config.model.context) == ("auto", "auto")
    reason = next(one.reason for one in decisions if "model.context" in one.fields)
    assert reason.startswith(
        "columns: brand, price of items; device of events; 20% of the validation targets are"
    )
    assert "columns: brand, price of items, device of events" in headline(brought, CARD, config)[1]
    films = replace(DENSE, cold=0.2)
    config = config_of(films, protocol=named("time-to-split"))
    assert config.model.item_features == ("genres", "period", "title")
    assert not config.model.item_attributes
    assert config_of(DENSE).model.item_attributes
    assert "without features of items they are misses" in str(
        choose(replace(SHOP, cold=0.2), CARD, Protocol())[1]
    )


def test_the_target_s_time_is_told_as_the_protocol_says_unless_the_user_does():
    assert config_of(DENSE).data.target_time
    hidden = config_of(DENSE, protocol=named("s3rec"))
    assert not hidden.data.target_time
    assert hidden.model.horizon
    assert config_of(DENSE, target_time=False).model.horizon


def test_minutes_end_the_schedule_and_leave_time_for_start_and_test():
    config = config_of(DENSE, minutes=4.0)
    assert config.train.fit_minutes
    assert config.train.max_minutes == usable_minutes(4.0)
    assert 3.0 < config.train.max_minutes < 4.0
    assert not config_of(DENSE).train.fit_minutes
    longer, shorter = (config_of(SHOP, minutes=m).model.members for m in (4.0, 1.0))
    assert longer > shorter


def test_a_machine_without_a_card_gets_a_small_model():
    config = config_of(DENSE, CORES, minutes=10.0)
    assert (config.model.dim, config.model.members, config.train.precision) == (64, 1, "float32")


def test_at_ml_20m_s_size_the_model_is_wide_and_regularised_less():
    ml_20m = replace(DENSE, users=138_493, items=26_744, events=19_700_000)
    large, medium = config_of(ml_20m), config_of(DENSE)
    assert large.model.dim == 256
    assert large.model.dropout < medium.model.dropout
    assert large.model.members == 1
    assert config_of(ml_20m, minutes=4.0).model.dim == 128


def test_the_same_facts_give_the_same_configuration():
    assert config_of(GROCER, minutes=4.0) == config_of(GROCER, minutes=4.0)


@pytest.mark.parametrize("facts", [DENSE, SHOP, GROCER])
@pytest.mark.parametrize("machine", [CARD, CORES])
def test_every_decision_names_a_field_and_says_why(facts, machine):
    config, decisions = choose(facts, machine, Protocol(), 4.0)
    rows = list(explained(config, decisions, own=["model.dim"]))
    assert {row[0] for row in rows} <= set(field_names())
    assert len({row[0] for row in rows}) == len(rows)
    assert all(row[2] for row in rows)
    assert next(row for row in rows if row[0] == "model.dim")[2] == "set by you"
    assert all(facts.name in line or "auto: " in line for line in headline(facts, machine, config))


def test_what_the_user_sets_stays(prepared):
    auto = Auto(Protocol(), {"model.dim": 24, "optim.lr": 0.5}, 1.0)
    said = []
    config = auto(prepared, gpu=False, say=said.append)
    assert (config.model.dim, config.optim.lr) == (24, 0.5)
    assert config.preset == "auto"
    assert len(said) == 3
