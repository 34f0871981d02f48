"""What is taken from Ray's internals is there, in whatever Ray is installed (`tools/ray_versions.py` runs this too)."""

import inspect
import logging
import os
import zipfile
from types import SimpleNamespace

import pytest
import ray

from ss4rec.cluster import ray_private

pytestmark = pytest.mark.ray
ELSEWHERE = {
    "preemption": "tests/faults/test_ray_faults.py",
    "leave_signals_alone": "tests/faults/test_signals.py",
    "send_token": "test_a_token_is_used_where_nothing_else_is_said",
}
"""Functions that need more than a cluster, and the tests that call them."""


def calls(folder):
    """Return a call of each function, and what its answer must hold."""
    address = ray.get_runtime_context().gcs_address
    return {
        "last_started": lambda: isinstance(ray_private.last_started(), str | None),
        "running_heads": lambda: address in ray_private.running_heads(),
        "outer_address": lambda: ray_private.outer_address().count(".") == 3,
        "on_loopback": lambda: _enters(ray_private.on_loopback(True)),
        "addresses_in_actors": lambda: _enters(ray_private.addresses_in_actors(address)),
        "knock": lambda: ray_private.knock(address) is None,
        "route_worker_lines": lambda: ray_private.route_worker_lines(lambda data: data) is None,
        "seal_constructors": lambda: ray_private.seal_constructors() is None,
        "commentary": lambda: "ray.train" in ray_private.commentary()[0],
        "autoscaler_groups": lambda: ray_private.autoscaler_groups() == [],
        "job_metadata": lambda: len(list(ray_private.job_metadata())) == 1,
        "remove_placement_groups_of": lambda: ray_private.remove_placement_groups_of("00") is None,
        "dashboard_url": lambda: isinstance(ray_private.dashboard_url(), str | None),
        "pack_folder": lambda: _packs(folder),
        "cpus": lambda: ray_private.cpus() >= 1,
        "memory_bytes": lambda: ray_private.memory_bytes() > 1 << 28,
        "free_port": lambda: ray_private.free_port() > 1023,
        "has_token": lambda: ray_private.has_token() in (True, False),
    }


def _enters(context) -> bool:
    with context:
        return True


def _packs(folder) -> bool:
    (folder / "kept.py").write_text("1")
    (folder / "left.log").write_text("1")
    (folder / ".gitignore").write_text("*.log\n")
    target = folder.parent / "packed.zip"
    ray_private.pack_folder(folder, target)
    names = " ".join(zipfile.ZipFile(target).namelist())
    return "kept.py" in names and "left.log" not in names


def test_every_function_works(small_cluster, tmp_path):
    """Seen to fail: `preemption_context` and `_enable_token_auth` are not in every Ray."""
    folder = tmp_path / "project"
    folder.mkdir()
    rows = calls(folder)
    public = {name for name, _ in inspect.getmembers(ray_private, inspect.isfunction) if name[0] != "_"}
    public = {name for name in public if getattr(ray_private, name).__module__ == ray_private.__name__}
    assert public == rows.keys() | ELSEWHERE.keys()
    assert [name for name, call in rows.items() if not call()] == []
    assert logging.getLogger("ray.data").handlers is not None


def test_a_token_is_used_where_nothing_else_is_said(monkeypatch):
    from ray._raylet import AuthenticationMode, Config, get_authentication_mode

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_private.send_token(new_cluster=True)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    ray_private.send_token(new_cluster=True)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    monkeypatch.undo()
    Config.initialize("")


def test_a_notice_is_found_in_each_ray(monkeypatch):
    """Ray 2.56 has none, 2.57 a method, later ones an attribute. Seen to fail: with the attribute alone."""
    from ray.train.v2._internal.execution import context

    has_none, told, silent = (
        SimpleNamespace(),
        SimpleNamespace(get=lambda: "goes"),
        SimpleNamespace(preemption_info=None),
    )
    found = []
    for train in (has_none, *(SimpleNamespace(preemption_context=one) for one in (told, silent))):
        monkeypatch.setattr(context, "get_train_context", lambda train=train: train)
        found.append(ray_private.preemption())
    assert found == [None, "goes", None]
