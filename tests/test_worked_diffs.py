"""The changes that CONTRIBUTING.md shows are made to a copy of the code, and what they add works there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

TRY = """
import sys
from pathlib import Path

import numpy as np
import pytest

from drift.signals.definitions import signals
from ss4rec.cli import main_group, run
from ss4rec.data.sources import Source
from ss4rec.errors import BackendError
from ss4rec.evaluation.metrics import METRICS, RankedTargets
from ss4rec.kernels import resolve_time_backend
from ss4rec.presets import preset

rbp = METRICS[-1]
assert rbp.name == "RBP"
assert np.allclose(rbp.gains(np.array([1.0, 2.5, 11.0]), 10), [0.2, 0.2 * 0.8**1.5, 0.0])
assert np.allclose(rbp.of_lists(RankedTargets.of(np.array([1.0, 2.0]), np.array([0, 0])), 10), [0.36])
assert preset("nightly").train.max_minutes == 20
assert "weekend" in {signal.name for signal in signals(("Drama",))}
with pytest.raises(BackendError, match="jax is missing"):
    resolve_time_backend("pallas", "cuda")

here = Path(sys.argv[1])
(here / "userid-timestamp-artid-artname-traid-traname.tsv").write_text(
    "".join(f"user_{n}\\t2009-05-0{n}T23:08:57Z\\tart\\tname\\ttrack_{n}\\tsong\\n" for n in range(1, 6))
)
source = Source.open(here)
assert source.layout.name == "lastfm-1k"
found = source.read()
assert found.rows == 5
with pytest.raises(SystemExit) as ended:
    run(main_group, ["top", "--data", sys.argv[2], "--k", "2"])
assert ended.value.code in (0, None)
print("all work")
"""


def changes():
    """Yield (file, lines of the diff) of each change; a diff without a head is of the file that the text names last."""
    text, block, name, lines = "", False, "", []
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        if line.startswith("```"):
            if block and lines:
                yield name, lines
            block, lines = line == "```diff", []
            names = re.findall(r"`([\w/]+\.py)`", text)
            name = names[-1] if names else ""
            text = text if block else ""
        elif not block:
            text += f"{line}\n"
        elif line.startswith("--- "):
            if lines:
                yield name, lines
            lines = []
        elif line.startswith("+++ b/"):
            name = line.removeprefix("+++ b/")
        else:
            lines.append(line)


def apply(path, diff):
    """Make one change; every line that it shows as being there must be there, in order.

    Added lines follow the line above them in the diff; behind `@@` they stand before the one below them.
    """
    old = path.read_text().splitlines() if path.exists() else []
    new, waiting, place, follows = [], [], 0, False
    for line in diff:
        mark, content = line[:1], line[1:]
        if mark == "@":
            follows = False
        elif mark == "+":
            (new if follows else waiting).append(content)
        elif content.strip():
            at = next((n for n in range(place, len(old)) if old[n] == content), None)
            assert at is not None, f"CONTRIBUTING.md shows a line that is not in {path.name}: {content}"
            new += [*old[place:at], *waiting, *([content] if mark == " " else [])]
            waiting, place, follows = [], at + 1, True
    path.write_text("\n".join([*new, *waiting, *old[place:]]) + "\n")


def test_each_worked_diff_fits_and_works(tmp_path, prepared):
    """Seen to fail: with a metric whose discount has no cut-off, as the page showed for a while."""
    for folder in ("ss4rec", "drift"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    made = list(changes())
    assert len(made) == 10
    for name, diff in made:
        apply(tmp_path / name, diff)
    (tmp_path / "listens").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", TRY, str(tmp_path / "listens"), str(prepared)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "all work" in told.stdout, told.stderr
    assert "next: ss4rec train --data " in told.stdout
    assert (tmp_path / "drift/signals/histograms.py").read_text().count('"weekend": (every, ') == 1
