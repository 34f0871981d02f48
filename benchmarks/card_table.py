"""Predicts seconds per epoch on a card that is not here, beside what the H100 was measured at.

    python -m benchmarks.card_table [--record benchmarks/results/train_step-YYYYMMDD.json]

For each row of the record: the floor of a step on the H100 (`ss4rec.auto.cost`), its measured time and their ratio, the
same for memory; then the A6000's floor times that ratio, since what is above the floor is launches, waiting and small
kernels, of which we know nothing better than that they are alike. benchmarks/NOTES.md holds the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.train_step.__main__ import DEFAULTS, OURS
from ss4rec.auto.cost import A6000, H100, floor_s, peak_gib
from ss4rec.config import override
from ss4rec.presets import preset

RESULTS = Path(__file__).parent / "results"
ML_1M, ML_20M = 988_129, 19_861_770
"""Targets of an epoch: ratings less one for each user."""


def predict(row: dict[str, Any]) -> dict[str, float]:
    """Return floors, ratios and predictions of one measured row."""
    changes = dict(pair.split("=", 1) for pair in (*DEFAULTS, *OURS[row["row"]]))
    config = override(preset("paper"), changes)
    tokens = round(row["targets_per_s"] * row["step_ms"] / 1e3)
    here, there = (floor_s(config, row["items"], tokens, card) for card in (H100, A6000))
    ratio = row["step_ms"] / 1e3 / here
    return {
        "tokens": tokens,
        "h100_floor_ms": 1e3 * here,
        "ratio": ratio,
        "gib": peak_gib(config, row["items"], tokens),
        "a6000_floor_ms": 1e3 * there,
        "a6000_targets_per_s": tokens / (there * ratio),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| shape | H100 floor ms | H100 measured ms | ratio | GiB predicted / measured | A6000 floor ms | A6000 predicted "
        "targets/s | epoch of ML-1M / ML-20M, H100 measured, s | A6000 predicted, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row["row"] not in OURS or "targets_per_s" not in row:
            continue
        found = predict(row)
        rate, guess = row["targets_per_s"], found["a6000_targets_per_s"]
        lines.append(
            f"| {row['row'][4:]} | {found['h100_floor_ms']:.2f} | {row['step_ms']:.2f} | {found['ratio']:.1f} "
            f"| {found['gib']:.2f} / {row['memory_gib']:.2f} | {found['a6000_floor_ms']:.2f} | {guess / 1e6:.2f} M "
            f"| {ML_1M / rate:.2f} / {ML_20M / rate:.1f} | {ML_1M / guess:.2f} / {ML_20M / guess:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table of the newest record, or of the one that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, default=max(RESULTS.glob("train_step-2*.json")))
    options = parser.parse_args()
    print(table(json.loads(options.record.read_text())["rows"]))


if __name__ == "__main__":
    main()
