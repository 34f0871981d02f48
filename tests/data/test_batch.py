import numpy as np
import pyarrow as pa
import pytest
import torch

from ss4rec.data.batches.batch import collate_eval, collate_train

WINDOWS = pa.table(
    {
        "user": pa.array([4, 4, 9, 2], pa.int32()),
        "items": pa.array([[1, 2], [3], [4, 5, 6], [7]], pa.list_(pa.int32())),
        "targets": pa.array([[2, 3], [4], [0, 6, 7], [8]], pa.list_(pa.int32())),
        "gaps": pa.array([[0.0, 5.0], [1.0], [2.0, 3.0, 1e9], [7.0]], pa.list_(pa.float32())),
        "hours": pa.array([[1, 6], [2**30], [3, 4, 5], [8]], pa.list_(pa.int32())),
        "ratings": pa.array([[1.0, 2.0], [0.5], [3.0, 4.0, 5.0], [1.5]], pa.list_(pa.float32())),
    }
)


def layouts(table):
    """Rows 1 to 3 of a table, as one slice, as many chunks, and through an index."""
    chunks = pa.concat_tables([table.slice(1, 1), table.slice(0, 0), table.slice(2, 2)])
    return [table.slice(1), chunks, table.take([1, 2, 3])]


@pytest.mark.parametrize("rows", layouts(WINDOWS))
def test_windows_are_packed(rows):
    batch = collate_train(rows)
    assert batch.users_S.tolist() == [4, 9, 2]
    assert batch.items_T.tolist() == [3, 4, 5, 6, 7]
    assert batch.targets_T.tolist() == [4, 0, 6, 7, 8]
    assert batch.gaps_T.tolist() == [1.0, 2.0, 3.0, 1e9, 7.0]
    assert batch.hours_T.tolist() == [2**30, 3, 4, 5, 8]
    assert batch.ratings_T.tolist() == [0.5, 3.0, 4.0, 5.0, 1.5]
    assert batch.profiles_TF.shape == (5, 0)
    assert batch.offsets_S1.tolist() == [0, 1, 4, 5]
    assert (batch.num_targets, batch.num_sequences, batch.num_tokens) == (4, 3, 5)
    for tensor in (batch.users_S, batch.items_T, batch.targets_T, batch.offsets_S1):
        assert tensor.dtype == torch.int64
    assert batch.gaps_T.dtype == torch.float32


def test_a_batch_can_be_written_without_touching_its_table():
    rows = WINDOWS.slice(1)
    collate_train(rows).gaps_T.zero_()
    assert rows["gaps"].to_pylist()[0] == [1.0]


def test_evaluation_sequences_are_packed():
    table = pa.table(
        {
            "user": pa.array([0, 3, 6], pa.int32()),
            "items": pa.array([[9], [2, 3], [5]], pa.list_(pa.int32())),
            "gaps": pa.array([[9.0], [4.0, 5.0], [6.0]], pa.list_(pa.float32())),
            "hours": pa.array([[9], [4, 5], [6]], pa.list_(pa.int32())),
            "ratings": pa.array([[1.0], [2.0, 3.0], [4.0]], pa.list_(pa.float32())),
            "places": pa.array([[0], [0, 1], [0]], pa.list_(pa.int32())),
            "targets": pa.array([[8], [3, 4], [1]], pa.list_(pa.int32())),
            "target_times": pa.array([[0], [2**33 - 5, 2**33], [12]], pa.list_(pa.int64())),
            "last_times": pa.array([[0], [2**33 - 9, 2**33 - 5], [6]], pa.list_(pa.int64())),
            "histories": pa.array([[1], [2, 3], [1]], pa.list_(pa.int32())),
            "weights": pa.array([[1.0], [0.25, 0.25], [1.0]], pa.list_(pa.float64())),
            "seen": pa.array([[9], [1, 2, 3], [5]], pa.list_(pa.int32())),
        }
    )
    batch = collate_eval(table.slice(1), np.arange(14).reshape(7, 2))
    assert batch.profiles_TF.tolist() == [[6, 7], [6, 7], [12, 13]]
    assert batch.hours_T.tolist() == [4, 5, 6]
    assert batch.ratings_T.tolist() == [2.0, 3.0, 4.0]
    assert batch.users_S.tolist() == [3, 3, 6]
    assert batch.items_T.tolist() == [2, 3, 5]
    assert batch.gaps_T.tolist() == [4.0, 5.0, 6.0]
    assert batch.offsets_S1.tolist() == [0, 2, 3]
    assert batch.last_S.tolist() == [0, 1, 2]
    assert batch.targets_S.tolist() == [3, 4, 1]
    assert batch.target_times_S.tolist() == [2**33 - 5, 2**33, 12]
    assert batch.last_times_S.tolist() == [2**33 - 9, 2**33 - 5, 6]
    assert batch.histories_S.tolist() == [2, 3, 1]
    assert batch.weights_S.tolist() == [0.25, 0.25, 1.0]
    assert batch.seen_X.tolist() == [1, 2, 1, 2, 3, 5]
    assert batch.seen_offsets_S1.tolist() == [0, 2, 5, 6]
    assert batch.num_sequences == 3
    assert batch.shares_histories


def test_offsets_stay_on_the_host():
    moved = collate_train(WINDOWS).to("meta")
    assert moved.items_T.is_meta
    assert moved.gaps_T.is_meta
    assert moved.users_S.is_meta
    assert moved.offsets_S1.tolist() == [0, 2, 3, 6, 7]
    assert moved.num_targets == 6
