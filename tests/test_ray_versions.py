"""The program that tries versions of Ray: its parts, and when one has passed."""

import pytest

from tools.ray_versions import GROUPS, PARTS, ROOT, passed


def test_each_part_is_run_once_and_its_tests_exist():
    assert sorted(part for group in GROUPS for part in group) == sorted(PARTS)
    for test in (test for tests in PARTS.values() for test in tests):
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text()


@pytest.mark.parametrize(
    ("ends", "good"),
    [
        ([("PASSED", "a.py::x"), ("PASSED", "a.py::y"), ("PASSED", "b.py::z")], True),
        ([("PASSED", "a.py::x"), ("FAILED", "a.py::y"), ("PASSED", "b.py::z")], False),
        ([("PASSED", "a.py::x")], False),
        ([("PASSED", "a.py::x"), ("ERROR", "b.py::z")], False),
        ([("ERROR", "a.py"), ("PASSED", "b.py::z")], False),
        ([], False),
    ],
)
def test_a_part_has_passed_if_all_of_its_tests_have(ends, good):
    assert passed(("a.py", "b.py::z"), ends) is good
