"""Draws what a terminal of 80 columns shows.

    python -m tools.terminal_picture DATA OUT.png              while a run trains
    python -m tools.terminal_picture OUT.png ss4rec WORD ..    once a command has ended

The run is real: the preset `demo` on a prepared folder, in this process. The picture is the display after most of its
epochs. A command runs in a terminal of its own; what it takes back, such as a live display, is not in the picture.
Needs chromium.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

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
    photograph(console, "ss4rec train", target)


def photograph(console: Console, title: str, target: Path) -> None:
    """Write what a console has recorded as a picture."""
    svg = target.with_suffix(".svg")
    text = console.export_svg(title=title)
    svg.write_text(text)
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())  # type: ignore[union-attr]
    size = f"--window-size=1000,{round(height * 1000 / width)}"
    browser = ["chromium", "--headless", "--no-sandbox", size, f"--screenshot={target}"]
    subprocess.run([*browser, str(svg.absolute())], check=True, capture_output=True)
    svg.unlink()


def left_on_screen(said: str) -> str:
    """Return the lines that a terminal shows after this; colours stay, what was wiped or written over does not."""
    lines, over = [""], False
    for part in re.split(r"(\r?\n|\r|\x1b\[\d*[AK]|\x1b\[\?25[lh])", said):
        if part in ("\n", "\r\n"):
            lines.append("")
            over = False
        elif part == "\r":
            over = True
        elif part.endswith("A") and part.startswith("\x1b["):
            del lines[len(lines) - int(part[2:-1] or 1) :]
        elif part.endswith("K") and part.startswith("\x1b["):
            lines[-1] = ""
        elif not part.startswith("\x1b[?25"):
            lines[-1] = part if over and part else lines[-1] + part
            over = over and not part
    return "\n".join(lines).strip("\n")


def draw_command(target: Path, command: list[str]) -> None:
    """Run a command in a terminal, and photograph what it leaves there."""
    mother, child = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "50", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=os.environ | size)
    os.close(child)
    said = b""
    try:
        while part := os.read(mother, 65536):
            said += part
    except OSError:  # the command has ended
        pass
    process.wait()
    console = Console(record=True, width=80, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(f"$ {shlex.join(command)}", markup=False, highlight=False)
    console.print(Text.from_ansi(left_on_screen(said.decode())))
    photograph(console, " ".join(command[:2]), target)


def _as_context(screen: Screen):
    from contextlib import nullcontext

    return nullcontext(screen)


if __name__ == "__main__":
    if sys.argv[1].endswith(".png"):
        draw_command(Path(sys.argv[1]), sys.argv[2:])
    else:
        draw(Path(sys.argv[1]), Path(sys.argv[2]))
