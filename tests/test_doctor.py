"""The doctor's checks where the machine is healthy, and where each thing is broken on purpose."""

import json

import pytest
from click.testing import CliRunner
from ray._raylet import AuthenticationTokenLoader

from ss4rec.cli.doctor import doctor_command
from ss4rec.cluster.placement import Cluster
from ss4rec.doctor import machine as module
from ss4rec.errors import BackendError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(module.ray_private, "last_started", lambda: None)  # others may work on this machine


def by_name(checks):
    return {check.name: check for check in checks}


def test_json_lists_every_group_and_exit_code_is_0(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ray_private, "cpus", lambda: 4.0)
    result = CliRunner().invoke(doctor_command, ["--json", "--storage", str(tmp_path)], standalone_mode=False)
    checks = json.loads(result.output)
    assert {check["group"] for check in checks} == {
        "software",
        "machine",
        "ray",
        "kernels",
        "storage",
    }
    assert {"torch", "ray", "pyarrow", "mamba-ssm", "CPUs", "room", "reference"} <= {
        c["name"] for c in checks
    }
    assert result.return_value == 0, [check for check in checks if check["status"] == "fail"]


def test_a_failed_check_gives_exit_code_1_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ray_private, "cpus", lambda: 2.0)
    arguments = ["--storage", str(tmp_path), "--workers", "2"]
    result = CliRunner().invoke(doctor_command, arguments, standalone_mode=False)
    assert result.return_value == 1
    assert "--workers 1" in result.output
    assert "1 failed" in result.output


def test_version_outside_the_declared_range(monkeypatch):
    monkeypatch.setattr(module, "version", lambda name: "26.0.1" if name == "pyarrow" else "2.13.0+cpu")
    check = module._version_check("pyarrow", module.Requirement("pyarrow>=17,<26"))
    assert check.status == "warn"
    assert "26.0.1, declared" in check.found
    assert module._version_check("torch", module.Requirement("torch>=2.11,<2.14")).status == "ok"


def test_missing_packages(monkeypatch):
    def absent(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", absent)
    assert module._version_check("optuna", module.Requirement("optuna>=5,<6")).status == "fail"
    assert module._version_check("mamba-ssm", None).status == "ok"


def test_small_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(module.ray_private, "memory_bytes", lambda: 1 << 60)
    check = by_name(module.check_machine())["/dev/shm"]
    assert check.status == "warn"
    assert "--shm-size" in check.advice


def test_gpu_that_torch_cannot_use(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "nvidia_smi", lambda: ["NVIDIA RTX A6000, 580.65"])
    (check,) = module.check_gpu()
    assert check.status == "fail"
    assert "A6000" in check.found


@pytest.mark.parametrize(("mode", "status"), [(None, "ok"), ("disabled", "warn"), ("token", "fail")])
def test_authentication(mode, status, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    AuthenticationTokenLoader.instance().reset_cache()
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    (check,) = module.check_auth()
    assert check.status == status


def test_unreachable_cluster_is_a_finding_and_skips_what_depends_on_it():
    cluster: list[Cluster] = []
    which, check = module.check_ray("http://127.0.0.1:9", cluster)
    assert (which.status, check.status) == ("ok", "fail")
    assert "RAY_AUTH_MODE=token" in check.advice
    assert list(module.check_room(1, cluster)) == []


def test_kernel_that_differs_from_the_reference_fails(monkeypatch):
    real = module._tiny_model

    def wrong_time(chosen, device):
        if "mamba_ssm" in chosen.values():
            raise BackendError("no CUDA")
        return real({}, device) + (0.5 if chosen.get("time") == "triton" else 0.0)

    monkeypatch.setattr(module, "_tiny_model", wrong_time)
    checks = by_name(module.check_kernels())
    assert checks["time: triton"].status == "fail"
    assert checks["relation: triton"].status == "ok"
    assert checks["relation: mamba_ssm"].status == "ok"
    assert checks["layer: triton"].status == "ok"


def test_a_check_that_raises_keeps_the_lines_before_it():
    def check_odd():
        yield module.Check("machine", "first", "ok", "")
        raise ImportError("no module named odd")

    first, second = module._guard("machine", check_odd)
    assert (first.status, second.status) == ("ok", "fail")
    assert second.name == "odd"
    assert "no module named odd" in second.found


def test_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (check,) = module.check_access(str(tmp_path / "file" / "runs"))
    assert check.status == "fail"
