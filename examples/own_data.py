"""Your own data: from a table of purchases to a table of recommendations, in this process.

    python examples/own_data.py [FILE.csv]

Without a file it makes up a small shop. Any table will do that says who did what when: change COLUMNS.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import ss4rec

COLUMNS = {"user": "buyer", "item": "sku", "time": "bought_at"}  # "rating" too, if there is one


def purchases(buyers: int = 300, articles: int = 80) -> pd.DataFrame:
    """Make up purchases in which the next article mostly follows from the last one."""
    random, rows = np.random.default_rng(0), []
    for buyer in range(buyers):
        article = int(random.integers(articles))
        moment = pd.Timestamp("2024-01-01") + pd.Timedelta(hours=int(random.integers(2000)))
        for _ in range(int(random.integers(8, 20))):
            rows.append((f"buyer-{buyer}", f"A{article:03d}", moment))
            article = (article + 1) % articles if random.random() < 0.8 else int(random.integers(articles))
            moment += pd.Timedelta(minutes=int(random.integers(1, 5000)))
    return pd.DataFrame(rows, columns=["buyer", "sku", "bought_at"])


def main(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Prepare, train, evaluate and recommend; everything is kept in `folder`."""
    # Users and items with fewer than 5 events are left out; rows that cannot be used are listed with a reason each.
    data = ss4rec.prepare(frame, folder / "shop", columns=COLUMNS, overwrite=True)
    print(f"{data.manifest.users} users, {data.manifest.items} items, {data.manifest.interactions} events")
    run = ss4rec.train(data, "demo", changes={"train.epochs": 6}, storage=folder / "runs")
    metrics = run.test.to_pandas()  # the last event of each user was held out
    shown = metrics[(metrics.metric == "NDCG@10") & (metrics.seen == "kept")]
    print(shown.to_string(index=False))
    # Ten items for everybody, as of one moment; users need not have been there in training.
    return run.recommend(frame, k=10, columns=COLUMNS, at=frame[COLUMNS["time"]].max())


if __name__ == "__main__":
    table = pd.read_csv(sys.argv[1]) if len(sys.argv) > 1 else purchases()
    with tempfile.TemporaryDirectory() as scratch:
        print(main(Path(scratch), table).head(10).to_string(index=False))
