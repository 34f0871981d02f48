"""What the load benchmark says of changes of the model, also where there was none. Seen to fail: with no change."""

from benchmarks.serve_load import Seen, changes


def seen(deeds_s):
    return Seen(
        seconds=[0.5] * 4, at_s=[1.0, 11.0, 12.0, 13.0], answered_by=["a", "b", "a", "b"], deeds_s=deeds_s
    )


def test_seconds_from_a_change_to_its_first_answer_and_the_last_of_the_old_model():
    assert changes(seen({"model b": 10.0, "a replica is killed": 12.0})) == {"model b": [1.5, 2.5]}
    assert changes(seen({"a replica is killed": 12.0})) == {}
