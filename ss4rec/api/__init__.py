"""ss4rec from Python: what `import ss4rec` offers.

    import ss4rec

    data = ss4rec.prepare(frame, "data/shop", columns={"user": "customer", "item": "sku", "time": "bought_at"})
    run = ss4rec.train(data, "demo", storage="runs")
    run.evaluate(data).to_pandas()
    run.recommend(frame, k=10)

Each function does what the verb of its name does, with the same defaults, files and errors
(`ss4rec.errors.SS4RecError`). Paths may be strings; times may be datetimes, which are UTC where they name no zone.

Where things run: `prepare`, `audit`, `split`, `train`, `evaluate` and `recommend` work in this process and start no
Ray, so that they are quick in a notebook and can be debugged; `workers=` or `address=` takes Ray. `tune` and `drift`
always use Ray: the one that runs on this machine, or one that they start and end.

Threads: results may be shared among threads, since they are only read. One training at a time per process; a second
one is refused, for both would draw from torch's one random state. Jupyter: all functions work in a cell, and
interrupting the kernel during `train` writes a checkpoint first. Fork: see `Recommender`.
"""

from __future__ import annotations

from ss4rec.api.data import TimeSplit, audit, prepare, split
from ss4rec.api.jobs import DriftResult, Sweep, drift, tune
from ss4rec.api.lists import Recommendations, recommend_all, score
from ss4rec.api.results import Evaluation, Run
from ss4rec.api.training import evaluate, recommend, train

__all__ = [
    "DriftResult",
    "Evaluation",
    "Recommendations",
    "Run",
    "Sweep",
    "TimeSplit",
    "audit",
    "drift",
    "evaluate",
    "prepare",
    "recommend",
    "recommend_all",
    "score",
    "split",
    "train",
    "tune",
]
