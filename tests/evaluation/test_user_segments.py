"""Segments: every event is where it belongs, and metrics in a segment equal those of its events alone."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from ss4rec.evaluation.metrics import ndcg
from ss4rec.evaluation.saved import load_evaluation
from ss4rec.evaluation.segments import (
    MIN_USERS,
    Segmentation,
    metric_gains,
    segment_rows,
    segmentations,
)

DAY = 86_400


def seconds(*date):
    return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp())


@pytest.fixture
def divided():
    march, june = seconds(2001, 3, 5), seconds(2001, 6, 5)
    targets = pa.table(
        {
            "user": [0, 1, 2, 3, 3],
            "history": [9, 10, 50, 200, 201],
            "target": [1, 2, 200, 0, 100],
            "target_time": [march, march, june, june, june],
            "last_time": [march, march - 1801, june - DAY, june - 30 * DAY, june - 31 * DAY],
            "target_events": [900, 4, 5, 0, 0],
            "repeat": [True, False, False, False, False],
            "user.gender": ["F", "M", None, "F", "F"],
        }
    )
    genres = [["a", "b"], ["b"], *[None] * 198]
    items = pa.table(
        {"source_id": range(200), "title": [""] * 200, "genres": genres, "count": range(200, 0, -1)}
    )
    found = segmentations(targets, items)
    return {s.name: {label: s.rows(code).tolist() for code, label in enumerate(s.labels)} for s in found}


def test_by_hand(divided):
    assert divided["history length"] == {
        "1 to 9": [0], "10 to 19": [1], "20 to 49": [], "50 to 99": [2], "100 to 199": [], "200 or more": [3, 4],
    }  # fmt: skip
    assert divided["time since the last event"] == {
        "within 30 minutes": [0], "within a day": [1, 2], "within 30 days": [3], "later": [4],
    }  # fmt: skip
    assert divided["popularity of the item"] == {
        "top 1 % of items": [0, 1], "next 9 %": [], "next 40 %": [4], "bottom half": [2],
    }  # fmt: skip
    assert divided["repeat or new item"] == {"new item": [1, 2, 3, 4], "repeat": [0]}
    assert divided["cold or warm item"] == {
        "cold: never trained": [3, 4], "1 to 4 training events": [1], "warm": [0, 2],
    }  # fmt: skip
    assert divided["month"] == {"2001-03": [0, 1], "2001-06": [2, 3, 4]}
    assert divided["item genres"] == {"a": [0], "b": [0, 1]}
    assert divided["user gender"] == {"F": [0, 3, 4], "M": [1]}


def test_metrics_of_a_segment_are_those_of_its_events(evaluated):
    saved = load_evaluation(evaluated)
    users_N, ranks_N = saved.targets["user"].to_numpy(), saved.ranks_of()
    for found in segmentations(saved.targets, saved.items):
        for row in segment_rows(found, users_N, metric_gains("NDCG@10", ranks_N)):
            rows = found.rows(found.labels.index(row.label))
            assert row.value == pytest.approx(ndcg(ranks_N[rows], 10))
            assert row.users == len(rows)
            assert row.low <= row.value <= row.high
            assert row.too_small == (row.users < MIN_USERS)


def test_a_user_with_several_events_in_a_segment_counts_once():
    found = Segmentation.of("x", ["a", "a", "a", "b"])
    rows = segment_rows(found, np.array([0, 0, 1, 1]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert [(row.label, row.users, row.value) for row in rows] == [("a", 2, 0.25), ("b", 1, 1.0)]


def test_many_values_are_put_together_and_an_unknown_metric_is_refused():
    found = Segmentation.of("x", [str(n % 40) for n in range(100)])
    assert found.labels[-1] == "other"
    assert len(found.labels) == 25
    with pytest.raises(ValueError, match="no metric 'NDGC@10'; choose one such as HR@10"):
        metric_gains("NDGC@10", np.ones(1))
