"""What a type checker knows of ss4rec in a user's script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import ss4rec

data = ss4rec.prepare("ratings.csv", "data/mine", columns={"user": "u"})
run = ss4rec.train(data, "demo", changes={"train.epochs": 2})
reveal_type(run)
reveal_type(run.config.train.epochs)
reveal_type(run.evaluate(data).metric())
reveal_type(run.recommender.recommend([1], [2])[0].score)
reveal_type(ss4rec.audit(data, "time-to-split").lights[0].rule)
reveal_type(ss4rec.split(data, "cut", "2024-01-01").past)
reveal_type(ss4rec.tune(data, "space.py", name="a", trials=2).best_config)
reveal_type(ss4rec.drift("cut", "report").verdict)
reveal_type(ss4rec.__version__)
"""
EXPECTED = [
    "ss4rec.api.results.Run",
    "int",
    "float",
    "float",
    "str",
    "ss4rec.data.prepared.folder.PreparedFolder",
    "ss4rec.config.RunConfig",
    "str",
    "str",
]


CONFIG = """
[mypy]
strict = true
[mypy-torch.*,ray.*,pandas.*,numpy.*,pyarrow.*,optuna.*,scipy.*,sklearn.*,safetensors.*,wandb.*]
follow_imports = skip
[mypy-ss4rec.*,drift.*,tuning.*]
ignore_errors = true
"""
"""The types of other libraries are not what is tested, and reading torch's takes half a minute."""


def check(path, text):
    path.write_text(text)
    (path.parent / "mypy.ini").write_text(CONFIG)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(path.parent / "cache"), str(path)],
        capture_output=True,
        text=True,
        cwd=path.parent,
        # An editable install is found through a hook that mypy does not run.
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    return ended.returncode, ended.stdout


def test_a_strict_script_sees_types(tmp_path):
    code, out = check(tmp_path / "script.py", SCRIPT + 'ss4rec.train(data, "demo", epoch=3)\nrun.scroe\n')
    assert code == 1, out
    names = [line.split('"')[1].removeprefix("builtins.") for line in out.splitlines() if "Revealed" in line]
    assert names == EXPECTED, out
    errors = [line for line in out.splitlines() if ": error:" in line]
    assert len(errors) == 2, out
    assert 'Unexpected keyword argument "epoch" for "train"' in errors[0]
    assert '"Run" has no attribute "scroe"' in errors[1]
