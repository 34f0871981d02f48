"""Concept drift is the model's business and data drift is not: the benchmark's controls, one run of each."""

from dataclasses import replace

import pytest

from benchmarks.drift.controls import CONCEPT, DATA_ONLY, Alarms, controlled


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (CONCEPT, Alarms(data_before=False, data_after=False, quality_before=False, quality_after=True)),
        (DATA_ONLY, Alarms(data_before=False, data_after=True, quality_before=False, quality_after=False)),
    ],
    ids=["concept", "data only"],
)
def test_who_gives_the_alarm(plant, expected):
    assert controlled((replace(plant, users=200), 3)) == expected
