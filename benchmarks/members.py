"""Members of an ensemble side by side on a card, against one after another.

    python -m benchmarks.members --data FOLDER [--row ml1m_no_t --row beauty ...] --out benchmarks/results

FOLDER holds the prepared folders of `python -m benchmarks.recipe`. Each row is trained as `auto` chooses for four
minutes, twice: with members one after another, and side by side; what is compared is the time of a steady step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.recipe.rows import training
from benchmarks.record import headline, write_record
from benchmarks.train_step.steady import train_steady
from ss4rec.auto.resolve import Auto
from ss4rec.train.side_by_side import SideBySide

ROWS = ("ml1m_no_t", "beauty", "retail", "union")
MINUTES = 4.0


def one_after_another(streams: SideBySide, pieces: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Stand in for `SideBySide.run`."""
    return [piece() for piece in pieces]


def measure(name: str, folders: Path, seconds: float) -> dict[str, Any]:
    """Return the steady step of a row both ways."""
    row = training(name)
    data = folders / row.data
    changes = {"data.source": "local", "tracking.wandb": "disabled"}
    config = Auto(row.protocol, changes, MINUTES)(data, True)
    device = torch.device("cuda")
    found: dict[str, Any] = {"row": name, "members": config.model.members}
    with tempfile.TemporaryDirectory() as runs:
        found["side_by_side"] = train_steady(config, data, Path(runs) / "side", device, seconds)
        with patch.object(SideBySide, "run", one_after_another):
            found["one_after_another"] = train_steady(config, data, Path(runs) / "serial", device, seconds)
    found["speedup"] = found["one_after_another"]["step_ms"] / found["side_by_side"]["step_ms"]
    return found


def main() -> None:
    """Measure and write the record; its headline is the smallest speed-up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--row", action="append", help=f"default: {', '.join(ROWS)}")
    parser.add_argument("--seconds", type=float, default=6.0, help="of steady steps, each way")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for name in args.row or ROWS:
        rows.append(measure(name, args.data, args.seconds))
        print(f"{name}: {rows[-1]['speedup']:.2f} times as fast side by side", flush=True)
    worst = min(row["speedup"] for row in rows)
    figure = headline("members.side_by_side_speedup", worst, "times", None, "members one after another")
    print(write_record("members", rows, [figure], args.out))


if __name__ == "__main__":
    main()
