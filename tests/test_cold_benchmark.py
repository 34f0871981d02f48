"""The benchmark of cold films: who is held out, and the rivals against a loop."""

import numpy as np
import pytest
import torch

from benchmarks.cold import SHARE, GenrePopularity, compared, held_out
from ss4rec.data.batches.batch import EvalBatch


def test_about_a_tenth_is_held_out_the_same_in_any_part():
    ids = np.arange(1, 4001)
    held = held_out(ids)
    assert held.mean() == pytest.approx(1 / SHARE, abs=0.02)
    assert (held_out(ids[::3]) == held[::3]).all()


@pytest.mark.parametrize("personal", [False, True])
def test_a_cold_film_is_as_popular_as_the_films_of_its_genres(personal):
    counts_V = torch.tensor([0.0, 10.0, 4.0, 0.0])
    genres_VG = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    scorer = GenrePopularity(counts_V, genres_VG, personal=personal, genres_only=False)
    batch = EvalBatch(
        **dict.fromkeys(("items_T", "gaps_T", "hours_T", "ratings_T", "profiles_TF", "offsets_S1", "users_S", "last_S",
                         "target_times_S", "last_times_S", "histories_S", "weights_S")),
        targets_S=torch.tensor([3]), seen_X=torch.tensor([2, 3]), seen_offsets_S1=torch.tensor([0, 2]),
    )  # fmt: skip
    shares = np.array([[1, 0], [0.5, 0.5], [0, 1]])
    mean = np.array([(10 + 0.5 * 4) / 1.5, 0.5 * 4 / 0.5])
    own = np.array([10, 4, mean[1]])
    taste = np.array([0.25, 0.75]) if personal else np.ones(2)
    expected = (shares * own[:, None]) @ taste
    found = scorer.scores(batch, target_time_known=True).matrix()[0, 1:]
    assert found.tolist() == pytest.approx(expected.tolist())


def test_ratio_and_interval_are_of_the_same_users():
    rows = {
        "features": {"gains_by_user": {1: 0.5, 2: 0.0}, "cold_hits10": 6, "cold_hr10_among_cold": 0.4},
        "none": {"gains_by_user": {1: 0.25, 2: 0.25}},
        "popularity by genre, a": {"cold_hits10": 0, "cold_hr10_among_cold": 0.1},
        "popularity by genre, b": {"cold_hits10": 2, "cold_hr10_among_cold": 0.05},
    }
    found = compared(rows)
    assert (found["ratio"], found["ratio_among_cold"]) == (3, 4)
    assert found["warm_ndcg_difference"] == 0
    assert found["warm_ndcg_interval"][0] <= 0 <= found["warm_ndcg_interval"][1]
