import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepare.k_core_rows import k_core


def naive(pairs, min_user, min_item):
    rows = list(range(len(pairs)))
    while True:
        kept = [
            row
            for row in rows
            if sum(pairs[other][0] == pairs[row][0] for other in rows) >= min_user
            and sum(pairs[other][1] == pairs[row][1] for other in rows) >= min_item
        ]
        if kept == rows:
            return kept
        rows = kept


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_same_rows_as_naive(pairs, min_user, min_item):
    table = np.array(pairs, np.int32).reshape(-1, 2)
    assert k_core(table[:, 0], table[:, 1], min_user, min_item).tolist() == naive(pairs, min_user, min_item)


def test_dropping_cascades_to_nothing():
    # A path: each drop makes its neighbour too rare.
    users, items = np.array([0, 1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 2, 2])
    assert len(k_core(users, items, 2, 2)) == 0
