"""Small models with every part awake, random histories, and the scores of encoding a history as a whole."""

import numpy as np

from benchmarks.states import models
from benchmarks.states.models import ITEMS, OPTIONS, recommender_of

__all__ = ["ITEMS", "OPTIONS", "random_history", "recommender_of", "whole"]
READER, PLAIN = recommender_of(**OPTIONS["columns"]), recommender_of()


def random_history(rng, length, with_context=False):
    """Return a history of the small models' items; with context only for a model that reads it."""
    return models.random_history(rng, length, READER if with_context else PLAIN)


def whole(recommender, history, at) -> np.ndarray:
    """Return the scores after one pass over the whole history, `[V - 1]`."""
    return models.whole(recommender, [history], [at])[0].numpy()
