"""Recorded graphs on disk: taken up by the next one, and recorded anew where they cannot be trusted."""

import numpy as np
import pytest
import torch

from ss4rec.states import Event, StateModel, state_model
from tests.states.conftest import OPTIONS, random_history, recommender_of


@pytest.fixture
def recorded(monkeypatch):
    """Return a list that grows by one with each graph that is recorded."""
    names = []
    for name in ("traced_step", "traced_question"):
        own = getattr(state_model, name)
        monkeypatch.setattr(state_model, name, lambda *a, own=own, name=name: names.append(name) or own(*a))
    return names


def lists(recommender, folder):
    states = StateModel(recommender, traced=True, graphs=folder)
    history = random_history(np.random.default_rng(3), 20)
    state = states.encode(history).update(Event(history.items[0], history.times[-1] + 60, 3.0))
    return state.memory.rows(torch.float32), states.recommend(state, k=7)


@pytest.mark.parametrize("options", ["ml_1m_best", "ensemble"])
def test_the_next_one_takes_up_the_same_graphs(options, tmp_path, recorded):
    recommender = recommender_of(torch.float32, **OPTIONS[options])
    rows, best = lists(recommender, tmp_path / "graphs")
    assert len(recorded) == 2
    again, found = lists(recommender, tmp_path / "graphs")
    assert len(recorded) == 2
    assert torch.equal(rows, again)
    assert found == best
    other = recommender_of(torch.float32, seed=1, **OPTIONS[options])
    assert lists(other, tmp_path / "graphs")[1] != best
    assert len(recorded) == 4


def test_what_cannot_be_trusted_is_recorded_anew(tmp_path, recorded, caplog):
    recommender, folder = recommender_of(torch.float32), tmp_path / "graphs"
    _, best = lists(recommender, folder)
    for file in folder.glob("*.pt"):
        file.write_bytes(b"torn")
    assert lists(recommender, folder)[1] == best
    assert len(recorded) == 4
    assert caplog.text.count("is recorded anew") == 2
    folder.chmod(0o777)
    assert lists(recommender, folder)[1] == best
    assert len(recorded) == 6
    assert "others may write" in caplog.text


def test_only_so_many_are_kept_and_a_missing_folder_is_no_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ss4rec.states.graphs.MOST_FILES", 2)
    for seed in (0, 1):
        lists(recommender_of(torch.float32, seed=seed), tmp_path / "graphs")
    assert len(list((tmp_path / "graphs").iterdir())) == 2
    lists(recommender_of(torch.float32), tmp_path / "none" / "graphs")
    assert "is not kept" in caplog.text
    assert not (tmp_path / "none").exists()
