"""Planted changes that look alike at first: a fault of the pipeline is told from a change of the world."""

import pytest

from benchmarks.drift.planted import figures, planted, run_all

USERS = 5000


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [("half of ids shuffled", True), ("what follows what", False)],
)
def test_another_order_of_the_same_items_is_no_mix_up_of_ids(name, pipeline):
    """Both break what follows what; ids that are mixed up also change what is popular and which stars it gets."""
    found = planted(name, 0, USERS)
    assert found["named"], found["changes"]
    assert found["advice"] is pipeline


def test_a_run_that_was_stopped_goes_on(tmp_path):
    """What is in the cache is not done again, and a line that was not finished is done anew."""
    cache = tmp_path / "cache.jsonl"
    cache.write_text(
        '{"none/100": {"named": false, "alarms": 0, "advice": false, "changes": []}}\n{"none/101": {"na'
    )
    done = run_all([("none", 100)], 1, cache)
    assert done["none/100"]["alarms"] == 0
    assert run_all([("none", 101)], 1, cache, minutes=0.0) == done


def test_figures_count_each_kind():
    from benchmarks.drift.plants import PLANTS

    done = {f"{name}/{seed}": {"named": True, "advice": plant.pipeline, "alarms": 1} for name, plant in PLANTS.items()
            for seed in range(3)}  # fmt: skip
    done |= {f"none/{100 + number}": {"alarms": int(number == 3), "named": False} for number in range(10)}
    done |= {f"150 copies/{seed}": {"named": False, "advice": False, "alarms": 0} for seed in (0, 1)}
    found, rate, false = figures(done, 3, 10)
    faults = 3 * sum(plant.pipeline for plant in PLANTS.values())
    assert (found["value"], rate["value"], false["value"]) == (13, round(1 - 2 / faults, 3), 0.1)
    assert "150 copies" in found["peer"]
