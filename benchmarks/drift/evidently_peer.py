"""Runs evidently's default drift report; started by `benchmarks.drift.peers` with an interpreter that has evidently.

python evidently_peer.py FOLDER CATEGORIES NAME...   reads FOLDER/NAME-ref.parquet and NAME-cur.parquet, prints JSON
"""

import json
import sys
import time

import evidently
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main(folder: str, categories: str, *names: str) -> None:
    """Print seconds and scores by name."""
    found: dict = {"version": evidently.__version__}
    for name in names:
        ref, cur = (pd.read_parquet(f"{folder}/{name}-{side}.parquet") for side in ("ref", "cur"))
        columns, count = list(ref.columns), int(categories)
        for frame in (ref, cur):
            frame[columns[:count]] = frame[columns[:count]].astype(int)
        layout = DataDefinition(numerical_columns=columns[count:], categorical_columns=columns[:count])
        sides = [Dataset.from_pandas(frame, data_definition=layout) for frame in (cur, ref)]
        started = time.perf_counter()
        result = Report([DataDriftPreset()]).run(*sides)
        metrics = result.dict()["metrics"]
        seconds = time.perf_counter() - started
        scores = {
            metric["config"]["column"]: float(metric["value"])
            for metric in metrics
            if "column" in metric.get("config", {})
        }
        found[name] = {"seconds": seconds, "scores": scores}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
