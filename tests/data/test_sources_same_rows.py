"""Any table that pandas, Polars, Arrow or Python write is read to the rows that reference readers read."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import field
from ss4rec.errors import DataError


@settings(derandomize=True, deadline=None, max_examples=120)
@given(seed=st.integers(0, 2**32))
def test_same_rows_as_reference_readers(tmp_path_factory, seed):
    case, wrong, what = field.one(seed, tmp_path_factory.mktemp("case") / "x")
    assert not wrong, f"{case.label}: {what}"


@pytest.mark.parametrize("seed", [10141, 10502, 20213, 30238, 40407, 7000234, 7004112, 31000319])
def test_what_was_wrong_once(tmp_path: Path, seed):
    """Objects over two lines, bytes that are no UTF-8 in other columns, clipped times, a row taken for a header, quotes
    that cut a character in two, blanks around times, blanks within names that looked like delimiters."""
    case, wrong, what = field.one(seed, tmp_path / "x")
    assert not wrong, f"{case.label}: {what}"


def test_the_comparison_sees_a_wrong_row(tmp_path, monkeypatch):
    real = field.read

    def wrong(source):
        rows = real(source)
        return [(n, user, item, second + 1, rating) for n, user, item, second, rating in rows]

    monkeypatch.setattr(field, "read", wrong)
    found = (field.one(seed, tmp_path / "x") for seed in range(20))
    case, count, what = next(one for one in found if one[0].format == "text" and not one[0].damaged)
    assert count == 2 * len(case.table)
    assert what.startswith("whole:")


def test_a_sound_table_may_not_be_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise DataError("no")

    monkeypatch.setattr(field, "read", refuse)
    results = [field.one(seed, tmp_path / "x") for seed in range(12)]
    assert all(bool(wrong) != case.damaged for case, wrong, _ in results)
