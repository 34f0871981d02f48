"""The walk of a batch: nothing is opened, planned or parsed twice from a source of ratings to metrics."""

import sys
from collections import Counter

import torch

from ss4rec.config import override, parse_config
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.sources import Source
from ss4rec.evaluation.alone import evaluate_with_baselines
from ss4rec.presets import preset
from ss4rec.protocol.plan import make_plan
from ss4rec.train.worker import train_alone

WATCHED = {
    Source.open.__func__.__code__: "source",
    Manifest.load.__func__.__code__: "folder",
    make_plan.__code__: "plan",
    parse_config.__code__: "configuration",
}


def opened(action):
    """Count what an action opens."""
    counts = Counter()

    def look(frame, event, _):
        if event == "call" and frame.f_code in WATCHED:
            counts[WATCHED[frame.f_code]] += 1

    sys.setprofile(look)
    try:
        action()
    finally:
        sys.setprofile(None)
    return dict(counts)


def test_source_folder_plan_and_configuration_are_opened_once(tmp_path):
    source, data, run = tmp_path / "ratings.csv", tmp_path / "data", tmp_path / "run"
    rows = [
        f"{u},{(u * 7 + e * 3) % 30 + 1},{e % 5 + 1},{10**6 + 997 * e + u}"
        for u in range(9)
        for e in range(9)
    ]
    source.write_text("\n".join(["userId,movieId,rating,timestamp", *rows]) + "\n")
    config, cpu = override(preset("debug"), {"train.epochs": 1}), torch.device("cpu")
    assert opened(lambda: prepare(source, data, k_core=0)) == {"source": 1}
    assert opened(lambda: train_alone(config, data, run, cpu)) == {"folder": 1, "plan": 1}
    assert opened(lambda: evaluate_with_baselines(run, data, cpu)) == {
        "folder": 1,
        "plan": 1,
        "configuration": 1,
    }
