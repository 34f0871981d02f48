"""The rules of `ss4rec doctor --cluster` on made-up nodes; tests/cluster/test_nodes.py runs it on real ones."""

from dataclasses import replace

import pytest

from ss4rec.doctor import rules
from ss4rec.doctor.machine import Check
from ss4rec.doctor.rules import NOT_ANSWERED, NodeFacts

GIB = 2**30
A = NodeFacts(
    address="10.0.0.1",
    python="3.12.3",
    versions={"torch": "2.13.0", "ray": "2.60.0"},
    ray_gpus=2.0,
    driver=("NVIDIA RTX A6000, 580.65", "NVIDIA RTX A6000, 580.65"),
    cuda=2,
    kernels=(Check("kernels", "time: triton", "ok", "runs on cuda, differs ..."),),
    memory_bytes=64 * GIB,
    shm_free_bytes=30 * GIB,
    store_bytes=18.0 * GIB,
)
B = replace(A, address="10.0.0.2")
BROKEN = Check("kernels", "time: triton", "fail", "runs on cuda, differs from the reference by 3e+00 at most")


@pytest.mark.parametrize(
    ("rule", "changes", "status", "said"),
    [
        ("same_versions", {}, "ok", "torch 2.13.0"),
        ("same_versions", {"versions": {"torch": "2.12.1", "ray": "2.60.0"}}, "fail", "torch 2.12.1, elsewhere 2.13.0"),
        ("same_versions", {"versions": {"ray": "2.60.0"}}, "fail", "torch none"),
        ("same_versions", {"python": "3.11.7"}, "fail", "python 3.11.7"),
        ("gpus", {}, "ok", "2 x NVIDIA RTX A6000, 580.65"),
        ("gpus", {"ray_gpus": 4.0}, "fail", "Ray counts 4"),
        ("gpus", {"cuda": 0}, "fail", "torch uses 0"),
        ("gpus", {"driver": ("NVIDIA RTX A6000, 550.1",) * 2}, "warn", "550.1"),
        ("gpus", {"ray_gpus": 0.0, "driver": (), "cuda": 0}, "ok", "none"),
        ("kernels", {}, "ok", "time: triton"),
        ("kernels", {"kernels": (BROKEN,)}, "fail", "3e+00"),
        ("memory", {}, "ok", "18.00 GiB"),
        ("memory", {"shm_free_bytes": GIB // 16}, "warn", "0.06 GiB free"),
        ("memory", {"shm_free_bytes": None}, "ok", "18.00 GiB"),
    ],
)  # fmt: skip
def test_a_node_that_differs(rule, changes, status, said):
    """The third of three nodes has the change; only it is named.

    Seen to fail: with the first node's versions as the measure instead of what most have.
    """
    odd = replace(A, address="10.0.0.3", **changes)
    checks = {check.name: check for check in getattr(rules, rule)([odd, A, B])}
    assert checks["10.0.0.3"].status == status
    assert said in checks["10.0.0.3"].found
    assert bool(checks["10.0.0.3"].advice) == (status != "ok")
    if status == "fail":
        assert {checks["10.0.0.1"].status, checks["10.0.0.2"].status} == {"ok"}


@pytest.mark.parametrize(
    ("offset", "doubt", "status"),
    [(0.2, 0.001, "ok"), (2.0, 1.5, "ok"), (-2.0, 0.1, "warn"), (45.0, 0.1, "fail"), (-45.0, 0.1, "fail")],
)
def test_clocks(offset, doubt, status):
    """A difference that the measurement's own doubt explains is none."""
    (check,) = rules.clocks({"10.0.0.1": (offset, doubt)})
    assert check.status == status


def test_storage_that_one_node_does_not_share():
    checks = list(rules.shared(["a", "b", "c"], "/mnt", ["", "", ""], [[1], [0, 2], [1]]))
    assert [check.status for check in checks] == ["fail", "fail", "fail"]
    assert "what a, c wrote is not there" in checks[1].found


def test_storage_that_cannot_be_written():
    checks = list(rules.shared(["a", "b"], "/mnt", ["", "Read-only file system"], [[1], [1]]))
    assert [check.status for check in checks] == ["ok", "fail"]


@pytest.mark.parametrize(
    ("statuses", "status", "said"),
    [
        ({"a": 401, "b": 403}, "ok", "asks for a token"),
        ({"a": NOT_ANSWERED, "b": NOT_ANSWERED}, "ok", "not reachable"),
        ({"a": 401, "b": 200}, "fail", "from b"),
        ({"a": 200}, "fail", "from a"),
    ],
)
def test_open_jobs_api_is_never_healthy(statuses, status, said):
    check = rules.stranger("http://10.0.0.1:8265", statuses, "a")
    assert check.status == status
    assert said in check.found
    assert ("run code" in check.advice) == (status == "fail")


def test_open_jobs_api_on_loopback_alone():
    assert rules.stranger("http://127.0.0.1:8265", {"a": 200}, "a").status == "warn"
