"""The arithmetic of the loop's benchmarks: shares, lifted ranks, policies, and what is done once."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loop.growing import Growing, hash_of, once
from benchmarks.loop.policies import POLICIES
from benchmarks.promote import lift
from benchmarks.replay import headlines, page, summary
from benchmarks.warm import parsed
from ss4rec.evaluation.evaluator import PerUser
from ss4rec.evaluation.segments import metric_gains
from ss4rec.loop.compare import judge
from ss4rec.loop.decide import State
from ss4rec.loop.settings import CompareConfig, DecideConfig
from tests.loop.conftest import verdict
from tests.loop.test_champion_compare import events


def row(window, hits, trained=None, seconds=0.0):
    return {"window": window, "HR@10": hits, "NDCG@10": hits / 2, "regret": 0.3 - hits, "unseen": 0.1,
            "trained": trained, "seconds": seconds}  # fmt: skip


LIVED = {
    "never": [row("a", 0.2), row("b", 0.1)],
    "every window cold": [row("a", 0.2, "cold", 100.0), row("b", 0.2)],
    "by decide": [row("a", 0.2, "warm", 20.0), row("b", 0.19)],
}


def test_a_policy_is_measured_against_training_cold_in_every_window():
    table = [summary("union", policy, rows) for policy, rows in LIVED.items()]
    assert [one["trainings"] for one in table] == [0, 1, 1]
    assert [one["warm"] for one in table] == [0, 0, 1]
    assert table[2]["HR@10"] == pytest.approx(0.195)
    found = {one["name"]: one["value"] for one in headlines("union", {one["policy"]: one for one in table})}
    assert found == {"replay.union_quality_share": 0.975, "replay.union_cost_share": 0.2}
    assert headlines("union", {"never": table[0]}) == []
    text = page("union", table, LIVED)
    assert "by decide" in text
    assert "+2.2500" in text  # (0.195 - 0.15) / 20 s
    assert text.count("<polyline") + text.count("<path") >= 3


@pytest.mark.parametrize("gain", [0.05, -0.2])
def test_lifted_ranks_are_as_much_better_as_asked(gain):
    frame = lift(events(users=300), gain, 1)
    users = PerUser(frame["user"].to_numpy())
    first, second = (
        users.mean(metric_gains("NDCG@10", frame[side].to_numpy())).mean() for side in ("first", "second")
    )
    assert second / first - 1 == pytest.approx(gain, abs=0.005)


def test_the_gate_lets_five_percent_through_and_nothing_worse():
    judged = {gain: [judge(lift(events(users=1500, seed=s), gain, s), CompareConfig(seed=s)) for s in range(2)]
              for gain in (0.05, -0.05)}  # fmt: skip
    assert all(one.promote for one in judged[0.05])
    assert not any(one.promote for one in judged[-0.05])


def test_policies_ask_for_a_report_only_where_they_read_it():
    class Report:
        class verdicts:  # noqa: N801
            data, regret = verdict("drift"), verdict("none")

    chosen = {
        policy.name: policy.choose(lambda: Report, State(), DecideConfig())
        for policy in POLICIES
        if policy.name != "by decide"
    }
    assert chosen == {
        "never": None,
        "every window cold": "cold",
        "every window warm": "warm",
        "on drift": "cold",
        "on regret": None,
    }


def test_what_is_kept_is_not_made_again(tmp_path):
    made = []
    for _ in range(2):
        assert once(tmp_path / "deep" / "a.json", lambda: made.append(1) or {"a": 1}) == {"a": 1}
    assert made == [1]
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"a": 1}


def test_windows_and_samples():
    names = [window.name for window in Growing("union", Path(), Path()).windows()]
    assert names == [str(year) for year in range(2015, 2023)]
    assert len(Growing("globo", Path(), Path()).windows()) == 10
    assert [window.name for window in Growing("ml-1m", Path(), Path()).windows()] == ["2000-12"]
    shares = np.array([hash_of(user) for user in range(4000)])
    assert (shares < 0.1).mean() == pytest.approx(0.1, abs=0.02)
    assert hash_of("anna") == hash_of("anna") != hash_of("ben")


def test_a_setting_is_fields_and_a_share_of_time():
    assert parsed("lr_share=0.3;train.warm_optimizer=continue", 0.2) == (
        {"lr_share": 0.3, "train.warm_optimizer": "continue"},
        0.2,
    )
    assert parsed("time_share=0.1;train.replay_share=0", 0.2) == ({"train.replay_share": 0}, 0.1)
    assert parsed("", 0.2) == ({}, 0.2)


def test_a_chain_of_warm_runs_keeps_short_names(tmp_path, monkeypatch):
    """Each run is named after its parent, and a file system takes 255 characters."""
    monkeypatch.setattr(Growing, "_train", lambda self, run, *_: {"seconds": 1.0})
    growing, run = Growing("globo", tmp_path, tmp_path), None
    names = set()
    for day in range(12):
        run, _ = growing.trained(1_507_420_799 + 86_400 * day, "warm" if run else "cold", 0.1, run)
        names.add(run.name)
    assert len(names) == 12
    assert max(map(len, names)) < 120
