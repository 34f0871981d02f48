"""Two releases are compared by (film, rating, second); users' numbers do not count."""

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ss4rec.cli.data_compare import compare_command
from ss4rec.data.compare import compare
from ss4rec.data.prepare.engine import prepare
from ss4rec.errors import DataError

YEAR_S = 365 * 86_400
ROWS = [
    (user, item, 0.5 + (user + item) % 9 / 2, 1_000_000_000 + (item % 3) * YEAR_S + 1000 * user + item)
    for user in range(1, 7)
    for item in range(1, 6)
]


def folder(path, rows):
    path.mkdir(parents=True)
    text = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
    (path / "ratings.csv").write_text(text)
    prepare(path / "ratings.csv", path / "out", k_core=0)
    return path / "out"


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(gone=st.sets(st.integers(0, 1), max_size=2), order=st.permutations(range(1, 7)))
def test_renumbered_users_change_nothing_and_removed_ratings_are_missed(tmp_path_factory, gone, order):
    tmp_path = tmp_path_factory.mktemp("two")
    kept = [row for at, row in enumerate(ROWS) if at not in gone]
    renamed = [(order[user - 1], *rest) for user, *rest in kept]
    found = compare(folder(tmp_path / "a", ROWS), folder(tmp_path / "b", renamed))
    assert found.found_share == pytest.approx(1 - len(gone) / len(ROWS))
    assert found.common_items == 5
    assert sum(first for first, _, _ in found.years.values()) == len(ROWS)
    assert found.facts["interactions"] == (len(ROWS), len(kept))


@pytest.mark.parametrize("change", [(0, 1, 0, 0), (0, 0, 0.5, 0), (0, 0, 0, 1)])
def test_another_film_rating_or_second_is_another_rating(tmp_path, change):
    other = [tuple(a + b for a, b in zip(row, change, strict=True)) for row in ROWS]
    assert compare(folder(tmp_path / "a", ROWS), folder(tmp_path / "b", other)).found_share < 0.5


def test_repeated_ratings_count_as_often_as_in_the_rarer_one(tmp_path):
    double = [*ROWS, ROWS[0], ROWS[0]]
    found = compare(folder(tmp_path / "a", double), folder(tmp_path / "b", [*ROWS, ROWS[0]]))
    assert found.found_share == pytest.approx((len(ROWS) + 1) / len(double))


def test_ids_of_another_kind_are_refused_and_the_command_prints_the_share(tmp_path):
    first, second = folder(tmp_path / "a", ROWS), folder(tmp_path / "b", ROWS)
    result = CliRunner().invoke(compare_command, [str(first), str(second)])
    assert "100.0% of" in result.output
    assert "2002" in result.output
    strings = tmp_path / "c"
    strings.mkdir()
    (strings / "x.csv").write_text("user,item,time\n" + "".join(f"u{u},i{i},{t}\n" for u, i, _, t in ROWS))
    prepare(strings / "x.csv", strings / "out", k_core=0)
    with pytest.raises(DataError, match="ids of type"):
        compare(first, strings / "out")
