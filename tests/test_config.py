"""Configuration: refusals name every problem at once, and presets are whole."""

import pytest

from ss4rec.config import ADDED, RunConfig, at, field_names, override, parse_config
from ss4rec.errors import ConfigError
from ss4rec.presets import PRESETS, preset


def test_all_problems_are_listed_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        parse_config({"model": {"dmi": 3, "blocks": 0}, "trian": {}, "optim": {"schedule": "cosin"}})
    message = str(caught.value)
    assert 'model.dmi: no such field; did you mean "model.dim"?' in message
    assert 'trian: no such field; did you mean "train"?' in message
    assert "model.blocks: input should be greater than 0, got 0" in message
    assert "optim.schedule: input should be 'constant' or 'cosine', got 'cosin'" in message


def test_override_changes_one_field_and_leaves_the_rest():
    changed = override(RunConfig(), {"model.dim": 128, "evaluation.ks": [1, 10]})
    assert (changed.model.dim, changed.evaluation.ks) == (128, (1, 10))
    assert (
        changed.model_copy(update={"model": RunConfig().model, "evaluation": RunConfig().evaluation})
        == RunConfig()
    )


@pytest.mark.parametrize("name", ["model.dim.x", "model.depth", "x"])
def test_override_refuses_what_is_no_field(name):
    with pytest.raises(ConfigError):
        override(RunConfig(), {name: 1})


def test_fingerprint_follows_what_decides_the_result_only():
    base = RunConfig()
    assert (
        override(base, {"resources.workers": 4, "tracking.wandb": "disabled"}).fingerprint()
        == base.fingerprint()
    )
    assert override(base, {"optim.lr": 0.5}).fingerprint() != base.fingerprint()


def test_every_field_is_documented():
    def undocumented(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert list(undocumented(RunConfig)) == []
    assert "train.batch_size" in field_names()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip_and_carry_their_name(name):
    config = preset(name)
    assert config.preset == name
    assert parse_config(config.model_dump(mode="json")) == config


def test_paper_is_the_published_configuration():
    model, train, optim = preset("paper").model, preset("paper").train, preset("paper").optim
    assert (model.dim, model.blocks, model.dropout, model.time_states, model.relation_states) == (
        64,
        2,
        0.2,
        32,
        32,
    )
    assert (model.expand, model.conv_width, model.shared_norm, model.norm, model.gap_map) == (
        2,
        4,
        True,
        "post",
        "seconds",
    )
    assert (optim.lr, optim.weight_decay, optim.schedule, optim.clip_norm) == (1e-3, 0.0, "constant", 0.0)
    assert (train.epochs, train.patience, train.seed) == (200, 10, 2020)
    assert preset("paper").loss.kind == "cross_entropy"


def test_every_option_that_leaves_the_paper_is_off_in_its_preset():
    paper = preset("paper")
    off = {
        "data.max_len": 200,
        "data.target_time": True,
        "model.gap_map": "seconds",
        "model.dt_init": "published",
        "model.feed_forward": 0.0,
        "model.norm": "post",
        "model.shared_norm": True,
        "model.embedding_dropout": 0.0,
        "model.layer_dropout": 0.0,
        "model.cosine_temperature": 0.0,
        "model.repeats": "ignore",
        "model.inputs": (),
        "model.item_attributes": False,
        "model.members": 1,
        "loss.label_smoothing": 0.0,
        "loss.swap_inputs": 0.0,
        "loss.swap_targets": 0.0,
        "optim.schedule": "constant",
        "optim.warmup_steps": 0,
        "optim.weight_decay": 0.0,
        "optim.clip_norm": 0.0,
        "optim.ema": 0.0,
    }
    assert {name: at(paper, name) for name in off} == off


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "paper"'):
        preset("papre")


def test_new_fields_leave_old_fingerprints_as_they_are():
    """That of the first release; a new field belongs into `ss4rec.config.ADDED`, or no old run can be continued."""
    assert RunConfig().fingerprint() == "61ef3ba7fd4e"
    changed = {
        "model.horizon": True,
        "model.item_features": ["price"],
        "model.id_dropout": 0.5,
        "model.user_features": "none",
        "model.context": "none",
        "data.targets": "event=purchase",
        "optim.base_dim": 64,
        "train.divergence": "stop",
        "train.fit_minutes": True,
        "data.new_after_s": 7,
        "train.start_from": "runs/first",
        "train.replay_share": 0.25,
        "train.warm_share": 0.5,
        "train.warm_optimizer": "continue",
        "protocol.held_out_users": 2000,
        "optim.item_updates": "all",
    }
    assert set(changed) == set(ADDED)
    prints = {override(RunConfig(), {name: value}).fingerprint() for name, value in changed.items()}
    assert len(prints) == len(changed)
    assert "61ef3ba7fd4e" not in prints
