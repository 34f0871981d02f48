"""Draws what a terminal of 80 columns shows while a run trains: `python -m tools.terminal_picture DATA OUT.png`.

The run is real: the preset `demo` on a prepared folder, in this process. The picture is the display after most of its
epochs. Needs chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from ss4rec.cli.display import Display
from ss4rec.config import override
from ss4rec.presets import preset
from ss4rec.train import status
from ss4rec.train.status import Screen
from ss4rec.train.worker import train_alone

SHOWN = 0.7
"""Share of the run's lines that the picture has seen."""


class Timed(Screen):
    """Keeps lines with their times."""

    def __init__(self) -> None:
        self.began, self.lines = time.monotonic(), []

    def line(self, text: str) -> None:
        """Keep a line."""
        self.lines.append((time.monotonic() - self.began, text))


def draw(data: Path, target: Path) -> None:
    """Train, replay the lines to a display, and photograph it."""
    kept = Timed()
    with tempfile.TemporaryDirectory() as folder:
        config = override(preset("demo"), {"tracking.wandb": "disabled", "train.status_every_s": 0.5})
        status.use_display(lambda: _as_context(kept))
        with status.on_display():
            train_alone(config, data, Path(folder) / "demo-synthetic", torch.device("cpu"))
    shown = kept.lines[: int(len(kept.lines) * SHOWN)]
    console = Console(record=True, width=80, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    display = Display("demo-synthetic", Console(file=open("/dev/null", "w")), clock=lambda: shown[-1][0])  # noqa: SIM115
    display.began = 0.0
    for _, text in shown:
        display.line(text)
    console.print(f"$ ss4rec train --data {data.name} --preset demo")
    console.print(display.render())
    svg = target.with_suffix(".svg")
    svg.write_text(console.export_svg(title="ss4rec train"))
    browser = ["chromium", "--headless", "--no-sandbox", "--window-size=1000,200", f"--screenshot={target}"]
    subprocess.run([*browser, str(svg.absolute())], check=True, capture_output=True)
    svg.unlink()


def _as_context(screen: Screen):
    from contextlib import nullcontext

    return nullcontext(screen)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
