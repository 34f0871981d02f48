"""What stands in examples/ runs as it is, and does what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ss4rec.data.synth.generate import synth

EXAMPLES = Path(__file__).parents[2] / "examples"


def module(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    root = str(EXAMPLES.parent)
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": root}}
    ).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    text = "\n".join(str(out.get("text") or out.get("data", {}).get("text/plain", "")) for out in shown)
    assert "training ended: all 3 epochs done" in text
    assert "popular in 30 days" in text
    assert "Recommendation(item=" in text


def test_the_loop_of_one_file_learns(tmp_path, capsys):
    synth(tmp_path / "data", users=300, items=200, mean_len=30)
    module("train").train(tmp_path / "data", 4, "cpu")
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", out)]
    scores = [float(score) for score in re.findall(r"validation .* NDCG@10 ([\d.]+)", out)]
    assert len(losses) == len(scores) == 4
    assert losses[3] < losses[0]
    assert scores[3] > 1.2 * scores[0]
    assert re.search(r"test HR@10 0\.\d+, NDCG@10 0\.\d+", out)


def test_a_table_of_ones_own_becomes_recommendations(tmp_path, capsys):
    example = module("own_data")
    frame = example.purchases(buyers=80, articles=30)
    found = example.main(tmp_path, frame)
    assert list(found.columns) == ["buyer", "rank", "item", "score", "title"]
    assert found.groupby("buyer").size().max() == 10
    assert "popular in 30 days" in capsys.readouterr().out
    last = frame.groupby("buyer").sku.last().str[1:].astype(int)
    best = found[found["rank"] == 1].set_index("buyer")["item"].str[1:].astype(int)
    followed = (best == (last.reindex(best.index) + 1) % 30).mean()
    assert followed > 0.3, "the planted next article is mostly the first recommendation"
