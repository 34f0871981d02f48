"""What a run is called where Ray shows it: data sets and operators by name, and a page for each training."""

import ast
from pathlib import Path

import pytest

from ss4rec.cluster import connect
from ss4rec.cluster.join import Target
from ss4rec.cluster.pool import dataset_name

ROOT = Path(__file__).parents[2]


def calls(name):
    """Yield (file, tree of the file, call) of each call of a method of this name in the product."""
    for folder in ("ss4rec", "drift", "tuning", "ray_jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == name
                ):
                    yield path.relative_to(ROOT), tree, node


def test_a_data_set_has_a_name_that_ray_takes():
    assert dataset_name("my films", "ranks", "test") == "my_films-ranks-test"


def test_operators_and_data_sets_have_names():
    """Ray shows `MapBatches(<lambda>)` and `dataset_7` else. Seen to fail: with a lambda in ray_evaluate.py."""
    found = list(calls("map_batches"))
    assert found
    for path, tree, call in found:
        assert not isinstance(call.args[0], ast.Lambda), f"{path}:{call.lineno}"
        names = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and hasattr(node.func, "attr")
        }
        assert "set_name" in names, path


@pytest.mark.parametrize(("address", "wanted"), [("10.0.0.1:6379", "1"), ("local", None)])
def test_a_cluster_that_stays_gets_a_page_for_each_training(address, wanted, monkeypatch):
    monkeypatch.delenv("RAY_TRAIN_ENABLE_STATE_TRACKING", raising=False)
    seen = []

    class Context:
        gcs_address = address

    monkeypatch.setattr(connect, "_join", lambda target, dashboard: None)
    monkeypatch.setattr(connect, "quiet_ray", lambda: None)
    monkeypatch.setattr(connect.ray, "get_runtime_context", Context)
    monkeypatch.setattr(connect.ray, "shutdown", lambda: None)
    for _ in connect._joined(Target(address, "a test"), dashboard=False):
        seen.append(connect.os.environ.get("RAY_TRAIN_ENABLE_STATE_TRACKING"))
    assert seen == [wanted]
