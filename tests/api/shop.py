"""A shop's purchases as somebody outside would have them: texts as ids, datetimes, names of their own."""

from __future__ import annotations

import numpy as np
import pandas as pd

COLUMNS = {"user": "buyer", "item": "sku", "time": "bought_at"}


def shop(buyers: int = 60, articles: int = 30, seed: int = 0) -> pd.DataFrame:
    """Return about 12 purchases per buyer; what is bought next mostly follows from the last purchase."""
    random = np.random.default_rng(seed)
    rows = []
    for buyer in range(buyers):
        article, moment = (
            random.integers(articles),
            pd.Timestamp("2024-01-01") + pd.Timedelta(hours=int(random.integers(2000))),
        )
        for _ in range(int(random.integers(8, 16))):
            rows.append((f"buyer-{buyer:03d}", f"A{article:03d}", moment))
            article = (article + 1) % articles if random.random() < 0.8 else random.integers(articles)
            moment += pd.Timedelta(minutes=int(random.integers(1, 5000)))
    return pd.DataFrame(rows, columns=["buyer", "sku", "bought_at"])
