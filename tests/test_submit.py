"""Packing, refusals and the command's flow with a fake client; one real job on a head that cluster/local.sh starts."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ss4rec import submit
from ss4rec.cli.submit import submit_command
from ss4rec.errors import ResourceError, UsageError

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ["train", "--address", "http://127.0.0.1:9"]
OPTIONS = ["--", "--data", "/d", "--storage", "/s"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project that stands in for the checkout."""
    root = tmp_path / "project"
    for name, text in {
        "ray_jobs/__init__.py": "",
        "ray_jobs/train.py": "import os, sys\nprint('job says', os.environ['WORD'], sys.argv[1:])\nsys.exit(3)\n",
        "pkg/data/code.py": "x = 1\n",
        "data/big.bin": "x",
        ".gitignore": "*.parquet\n",
        ".rayignore": "/data/\n",
        "table.parquet": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(submit, "project_root", lambda: root)
    return root


class FakeClient:
    """Answers like the Jobs API for one job with the given log chunks and end."""

    def __init__(self, chunks=("one\n", "two\n"), status="SUCCEEDED", code=0):
        self.chunks, self.submitted, self.stopped = chunks, {}, []
        self.info = SimpleNamespace(status=status, driver_exit_code=code, message="as planned")

    def submit_job(self, **arguments):
        self.submitted = arguments
        return "job1"

    async def tail_job_logs(self, job_id):
        for chunk in self.chunks:
            if chunk is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield chunk

    def get_job_info(self, job_id):
        return self.info

    def get_address(self):
        return "http://head:8265"

    def stop_job(self, job_id):
        self.stopped.append(job_id)


def run(client, monkeypatch, arguments, answer=""):
    monkeypatch.setattr(submit, "connect", lambda address: client)
    return CliRunner().invoke(submit_command, arguments, standalone_mode=False, input=answer)


def test_package_honours_ignore_files_and_names_large_folders(project):
    with submit.packed(project) as package:
        names = {name for name, _ in package.folders}
        assert package.size_bytes == package.path.stat().st_size
    assert package.files == 5
    assert {"ray_jobs", "pkg/data"} <= names
    assert "data" not in names
    assert not package.path.exists()


def test_this_project_travels_whole():
    with submit.packed(submit.project_root()) as package:
        names = {name for name, _ in package.folders}
    wanted = {"ss4rec/data", "ss4rec/model", "ray_jobs"}
    assert wanted <= names, f"missing {wanted - names}: an ignore file takes too much"
    assert not [name for name in names if name.startswith((".venv", ".git", "docs", "data", "runs"))]
    assert package.size_bytes < 5 * 2**20


def test_too_large_a_package_is_refused_before_the_upload(project, monkeypatch):
    (project / "blob").mkdir()
    (project / "blob" / "noise.bin").write_bytes(random.Random(0).randbytes(2**20))
    monkeypatch.setattr(submit, "LIMIT_BYTES", 2**19)
    result = run(FakeClient(), monkeypatch, [*TRAIN, *OPTIONS])
    assert isinstance(result.exception, UsageError)
    assert "blob (1 MiB)" in str(result.exception)
    assert ".rayignore" in str(result.exception)


def test_nothing_to_pack_is_refused(project):
    (project / ".rayignore").write_text(".*\n")
    with pytest.raises(UsageError, match=r"\.rayignore"), submit.packed(project):
        pass


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("train", ["--data", "prepared", "--storage", "/s"], "--data prepared"),
        ("train", ["--data=./x", "--storage=/s"], r"--data \./x"),
        ("evaluate", ["--run"], "--run"),
        ("tune", ["--data", "/d"], "--storage"),
    ],
)
def test_paths_that_a_job_would_lose_are_refused(verb, options, message):
    with pytest.raises(UsageError, match=message):
        submit.entrypoint(verb, options)


def test_entrypoint_quotes():
    command = submit.entrypoint("drift", ["--data", "/a b", "--run=/r", "--set", "x=[1, 2]"])
    assert command == "python -m ray_jobs.drift --data '/a b' --run=/r --set 'x=[1, 2]'"


def test_log_is_followed_and_exit_code_passed_on(project, monkeypatch):
    client = FakeClient()
    result = run(client, monkeypatch, [*TRAIN, "--env", "A=b=c", *OPTIONS])
    assert result.return_value == 0
    assert "one\ntwo\n" in result.output
    assert "working directory: 5 files" in result.output
    assert client.submitted["entrypoint"] == "python -m ray_jobs.train --data /d --storage /s"
    assert client.submitted["runtime_env"]["env_vars"] == {"A": "b=c"}


@pytest.mark.parametrize(
    ("status", "code", "expected"), [("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 130)]
)
def test_failures(status, code, expected, project, monkeypatch):
    result = run(FakeClient(status=status, code=code), monkeypatch, [*TRAIN, *OPTIONS])
    assert result.return_value == expected
    assert f"{status} (as planned)" in result.output


def test_no_wait_returns_at_once(project, monkeypatch):
    result = run(FakeClient(chunks=(KeyboardInterrupt,)), monkeypatch, [*TRAIN, "--no-wait", *OPTIONS])
    assert result.return_value == 0
    assert "ray job logs --follow --address http://head:8265 job1" in result.output


@pytest.mark.parametrize(("answer", "stopped"), [("y\n", ["job1"]), ("n\n", [])])
def test_ctrl_c_asks(answer, stopped, project, monkeypatch):
    client = FakeClient(chunks=("one\n", KeyboardInterrupt))
    result = run(client, monkeypatch, [*TRAIN, *OPTIONS], answer)
    assert result.return_value == 130
    assert client.stopped == stopped


def test_bad_variable_is_refused(project, monkeypatch):
    result = run(FakeClient(), monkeypatch, [*TRAIN, "--env", "NAME", *OPTIONS])
    assert isinstance(result.exception, UsageError)


def test_no_cluster_is_one_sentence():
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:9"):
        submit.connect("http://127.0.0.1:9")


@pytest.mark.ray
def test_real_job_on_the_local_head(project, tmp_path, monkeypatch):
    for name, value in {
        "SS4REC_STATE": str(tmp_path / "state"),
        "SS4REC_PORT": "26579",
        "SS4REC_DASHBOARD_PORT": "28465",
        "SS4REC_CPUS": "2",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_AUTH_MODE": "token",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    script, url = str(ROOT / "cluster" / "local.sh"), "http://127.0.0.1:28465"
    started = subprocess.run([script, "start"], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    try:
        assert f"submit train --address {url}" in started.stdout
        # Processes of their own: Ray reads the authentication mode once.
        looked = command_line(project, "doctor", "--json", "--address", url, "--storage", str(tmp_path))
        job = command_line(project, "submit", "train", "--address", url, "--env", "WORD=hello", *OPTIONS)
    finally:
        subprocess.run([script, "stop"], check=True, capture_output=True)
    checks = {check["name"]: check for check in json.loads(looked.stdout)}
    assert checks["cluster"]["found"] == f"{url}: 1 node(s), 2 CPUs, 0 GPUs, dashboard answers"
    assert "1 of 2 CPUs left" in checks["room"]["found"]
    assert "job says hello ['--data', '/d', '--storage', '/s']" in job.stdout, job.stderr
    assert job.returncode == 3
    assert subprocess.run([script, "status"], capture_output=True).returncode == 1


def command_line(project, *arguments):
    """Run `ss4rec` with `project` in the place of the checkout."""
    code = (
        "import pathlib, sys; from ss4rec import cli, submit; "
        "submit.project_root = lambda: pathlib.Path(sys.argv[1]); cli.run(cli.main_group, sys.argv[2:])"
    )
    command = [sys.executable, "-c", code, str(project), *arguments]
    return subprocess.run(command, capture_output=True, text=True)
