"""What `benchmarks.newcomer` makes of a first hour and of runs of the tests."""

import pytest

from benchmarks.newcomer import busy, hour_headlines
from benchmarks.newcomer import test_headlines as headlines_of_tests

TOLD = {
    "first_hour.minutes": 9.5,
    "first_hour.steps": 20,
    "first_hour.steps_failed": 1,
    "failed": ["sweep"],
    "startup.seconds_to_first_step": 21.5,
    "install.mib": 1895,
    "seconds": {"install": 170.0, "sweep": 40.0},
}


def values(headlines):
    return {one["name"]: one["value"] for one in headlines}


def test_the_first_hours_figures():
    assert values(hour_headlines(TOLD)) == {
        "first_hour.minutes": 9.5,
        "first_hour.steps_failed": 1,
        "startup.seconds_to_first_step": 21.5,
        "install.mib": 1895,
        "install.seconds": 170.0,
    }
    nothing = TOLD | {"startup.seconds_to_first_step": None, "install.mib": None}
    assert set(values(hour_headlines(nothing))) == {"first_hour.minutes", "first_hour.steps_failed"}


@pytest.mark.parametrize(("target", "name"), [("test", "test"), ("test-all", "test_all")])
def test_minutes_are_those_of_the_slowest_and_only_of_a_quiet_machine(target, name):
    rows = [{"minutes": minutes, "exit_code": code, "busy": 0} for minutes, code in ((5.0, 0), (5.5, 2))]
    assert values(headlines_of_tests(target, rows)) == {f"{name}.minutes": 5.5, f"{name}.failures": 1}
    beside = [row | {"busy": 4} for row in rows]
    assert values(headlines_of_tests(target, beside)) == {f"{name}.failures_beside_load": 1}


def test_busy_processes_end():
    import multiprocessing

    with busy(1):
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []
