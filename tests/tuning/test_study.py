"""The study is the one memory of a sweep: what it keeps, what it refuses, what it survives."""

import math
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import event

from ss4rec.config import override
from ss4rec.errors import ConfigError, SS4RecError, UsageError
from tuning.ray_tune import study_error
from tuning.study import BASELINE, FACTS, OBJECTIVES, REASON, Sweep, best_trial, open_study

NDCG = [OBJECTIVES["ndcg@10"]]


def opened(folder, space, *, trials=5, objectives=NDCG, pruning="none", data="d", seed=0, grace=1):
    study = open_study(
        folder / "study.db",
        "s",
        space=space,
        identity={"data": data},
        objectives=objectives,
        pruning=pruning,
        grace_epochs=grace,
        seed=seed,
    )
    return Sweep(study, space, space.start(), objectives, trials)


def facts(score, epoch=9):
    return {"best_score": score, "score": score, "epoch": epoch, "num_parameters": 10, "events_per_s": 5.0}


def fill(sweep):
    while True:
        sweep.complete(sweep.ask().number, facts(0.1) | {"ended": "x" * 500})


def states(sweep):
    return [trial.state for trial in sweep.study.get_trials()]


def test_trials_are_counted_over_all_attempts(tmp_path, space):
    first = opened(tmp_path, space, trials=3)
    for _ in range(2):
        first.complete(first.ask().number, facts(0.1))
    second = opened(tmp_path, space, trials=3)
    assert second.left == 1
    second.complete(second.ask().number, facts(0.2))
    assert second.ask() is None
    assert states(second) == [TrialState.COMPLETE] * 3
    assert best_trial(second.study).number == 2


def test_the_first_points_come_first_and_once(tmp_path, space):
    sweep = opened(tmp_path, space)
    assert sweep.ask().config.optim.lr == space.first_points()[0]["optim.lr"]
    again = opened(tmp_path, space)
    assert len(again.study.get_trials()) == 1


def test_a_trial_that_was_running_is_taken_up_with_its_number_and_point(tmp_path, space):
    killed = opened(tmp_path, space)
    before = [killed.ask() for _ in range(3)]
    killed.report(before[1].number, 1, 0.1)
    killed.complete(before[0].number, facts(0.3))
    sweep = opened(tmp_path, space)
    assert sweep.resumed == 2
    after = [sweep.ask() for _ in range(2)]
    assert [asked.number for asked in after] == [1, 2]
    assert [asked.config for asked in after] == [asked.config for asked in before[1:]]
    sweep.report(1, 1, 0.1)  # repeated after the resume: neither an error nor a second value
    assert sweep.study.get_trials()[1].intermediate_values == {1: 0.1}
    for asked in after:
        sweep.complete(asked.number, facts(0.2))
    assert TrialState.RUNNING not in states(sweep)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, None])
def test_a_result_that_is_no_number_fails_the_trial_and_never_leaves_it_running(tmp_path, space, bad):
    sweep = opened(tmp_path, space)
    number = sweep.ask().number
    sweep.complete(number, {} if bad is None else facts(bad))
    trial = sweep.study.get_trials()[number]
    assert trial.state is TrialState.FAIL
    assert "no usable result: ndcg@10 is" in trial.user_attrs[REASON]


def test_a_trial_behind_the_others_is_stopped_and_told_as_pruned(tmp_path, space):
    sweep = opened(tmp_path, space, trials=9, pruning="asha")
    good = [sweep.ask().number for _ in range(3)]
    assert not any(
        sweep.report(number, epoch, 0.5 + number / 100) for epoch in (1,) for number in good[::-1][:1]
    )
    bad = sweep.ask().number
    assert sweep.report(bad, 1, 0.01)
    sweep.prune(bad, facts(0.01, epoch=1))
    trial = sweep.study.get_trials()[bad]
    assert trial.state is TrialState.PRUNED
    assert trial.user_attrs[FACTS]["epoch"] == 1


@pytest.mark.parametrize("pruning", ["asha", "median"])
def test_a_baseline_is_never_pruned(tmp_path, space, pruning):
    sweep = opened(tmp_path, space, trials=9, pruning=pruning)
    baseline, *others = [sweep.ask().number for _ in range(8)]
    for number in others:
        assert not sweep.report(number, 1, 0.5)
        assert not sweep.report(number, 2, 0.5 + number / 100) or pruning == "asha"
        sweep.complete(number, facts(0.5))
    assert not any(sweep.report(baseline, epoch, 0.01) for epoch in range(1, 9))
    worse = sweep.ask().number
    assert any(sweep.report(worse, epoch, 0.01) for epoch in range(1, 9))
    assert sweep.study.get_trials()[baseline].user_attrs[BASELINE] == "debug"


def test_nothing_is_pruned_before_its_grace(tmp_path, space):
    sweep = opened(tmp_path, space, trials=30, pruning="asha", grace=4)
    for value in (0.9, 0.5, 0.1):
        number = sweep.ask().number
        assert not any(sweep.report(number, epoch, value) for epoch in (1, 2, 3))


def test_a_point_that_the_configuration_refuses_is_a_failed_trial(tmp_path, space, monkeypatch):
    sweep = opened(tmp_path, space, trials=2)
    real = type(space).configure
    calls = []

    def configure(self, point, base=None):
        calls.append(point)
        if len(calls) == 1:
            raise ConfigError("these two fields exclude each other")
        return real(self, point, base)

    monkeypatch.setattr(type(space), "configure", configure)
    assert sweep.ask().number == 1
    assert states(sweep)[0] is TrialState.FAIL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, "data: d -> other"),
        ({"pruning": "median"}, "pruner: none after 1 epochs -> median after 1 epochs"),
    ],
)
def test_a_sweep_is_not_continued_with_other_settings(tmp_path, space, changes, message):
    opened(tmp_path, space)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, space, **changes)


def test_two_objectives(tmp_path, space):
    objectives = [OBJECTIVES["ndcg@10"], OBJECTIVES["parameters"]]
    with pytest.raises(UsageError, match="--pruner none"):
        opened(tmp_path, space, objectives=objectives, pruning="asha")
    sweep = opened(tmp_path, space, objectives=objectives)
    number = sweep.ask().number
    assert not sweep.report(number, 1, 0.5)
    sweep.complete(number, facts(0.5))
    assert sweep.study.get_trials()[number].values == [0.5, 10]


def test_a_full_disk_is_one_sentence_and_no_trial_is_lost(tmp_path, space):
    sweep = opened(tmp_path, space, trials=400)
    done = sweep.ask().number
    sweep.complete(done, facts(0.5))

    def full(connection, record):  # SQLite's own limit gives the very error of a full disk
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(sqlalchemy.engine.Engine, "connect", full)
    try:
        limited = opened(tmp_path, space, trials=400)
        with pytest.raises(StorageInternalError) as error:
            fill(limited)
    finally:
        event.remove(sqlalchemy.engine.Engine, "connect", full)
    told = study_error(error.value, tmp_path)
    assert isinstance(told, SS4RecError)
    assert "is the disk full?" in str(told)
    assert "the same command again" in str(told)
    mended = opened(tmp_path, space, trials=400)
    assert mended.study.get_trials()[done].values == [0.5]
    while mended.resumed and (asked := mended.ask()):
        mended.complete(asked.number, facts(0.1))
        mended.resumed -= 1
    assert TrialState.RUNNING not in states(mended)


def test_a_sweep_that_is_continued_with_other_values_names_them(tmp_path, space):
    """Not their checksums alone."""
    settings = {
        "space": space,
        "objectives": [OBJECTIVES["ndcg@10"]],
        "pruning": "none",
        "grace_epochs": 1,
        "seed": 0,
    }

    def attempt(dropout):
        base = override(space.start(), {"model.dropout": dropout})
        identity = {"base configuration": base.fingerprint()}
        open_study(tmp_path / "study.db", "s", identity=identity, base=base, **settings)

    attempt(0.1)
    with pytest.raises(ConfigError, match=r"model\.dropout: 0\.1 -> 0\.2"):
        attempt(0.2)


def test_a_study_that_is_locked_or_no_study_is_one_sentence(tmp_path, space):
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UsageError, match=r"study\.db cannot be opened: .*not a database") as refused:
        opened(tmp_path, space)
    assert "\n" not in str(refused.value)
    (tmp_path / "study.db").unlink()
    opened(tmp_path, space)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageError, match=r"study\.db cannot be opened: .*locked"):
            opened(tmp_path, space)
