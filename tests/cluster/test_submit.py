"""Packing, refusals and the command's flow with a fake client; tests/cluster/test_nodes.py submits real jobs."""

import io
import os
import random
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from ss4rec.cli.follow import JobLog
from ss4rec.cli.submit import submit_command
from ss4rec.cluster import submit
from ss4rec.errors import ResourceError, UsageError
from ss4rec.runs import provenance

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
    monkeypatch.setattr(submit, "project_root", lambda options: nullcontext(root))
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
    with submit.project_root() as root, submit.packed(root) as package:
        names = {name for name, _ in package.folders}
    wanted = {"ss4rec/data", "ss4rec/model", "ray_jobs"}
    assert wanted <= names, f"missing {wanted - names}: an ignore file takes too much"
    assert not [name for name in names if name.startswith((".venv", ".git", "docs", "data", "runs"))]
    assert package.size_bytes < 5 * 2**20


def test_an_installed_copy_travels_too(tmp_path, monkeypatch):
    """A wheel has no checkout around it: its packages travel, and the files that options name."""
    site = tmp_path / "site-packages"
    for name in submit.PACKAGES:
        (site / name / "inner").mkdir(parents=True)
        (site / name / "inner" / "code.py").write_text("")
    (site / "torch").mkdir()
    monkeypatch.setattr(submit, "__file__", str(site / "ss4rec/cluster/submit.py"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/space.py").write_text("SPACE = 1\n")
    options = ["--space", "mine/space.py", "--events=/etc/hosts", "--preset", "demo"]
    with submit.project_root(options) as root, submit.packed(root) as package:
        names = set(zipfile.ZipFile(package.path).namelist())
    assert {f"{name}/inner/code.py" for name in submit.PACKAGES} | {"mine/space.py"} == {
        name for name in names if not name.endswith("/")
    }
    assert not root.exists()


def test_packages_are_what_is_installed():
    import tomllib

    found = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = found["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(submit.PACKAGES) == {name.rstrip("*") for name in declared}


@pytest.mark.parametrize(
    ("verb", "options", "begin"),
    [
        ("train", ["--data", "/mnt/ml-1m", "--name", "first try"], "train-first-try-"),
        ("drift", ["--data=/mnt/cut", "--out", "/mnt/report"], "drift-cut-"),
        ("doctor", [], "doctor-"),
        ("train", ["--name", "x" * 200], "train-x"),
        ("train", ["--name", "été/ü"], "train-t-"),
    ],
)
def test_a_job_has_a_name(verb, options, begin):
    name = submit.job_name(verb, options)
    assert name.startswith(begin)
    assert len(name) <= 70
    assert name != submit.job_name(verb, options)


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
    monkeypatch.setattr(submit, "git_commit", lambda: "c0ffee")
    result = run(client, monkeypatch, [*TRAIN, "--env", "A=b=c", *OPTIONS])
    assert result.return_value == 0
    assert "one\ntwo\n" in result.output
    assert "working directory: 5 files" in result.output
    assert client.submitted["entrypoint"] == "python -m ray_jobs.train --data /d --storage /s"
    variables = client.submitted["runtime_env"]["env_vars"]
    assert variables == {"A": "b=c", "SS4REC_COMMIT": "c0ffee", "RAY_JOB_STOP_WAIT_TIME_S": "75"}
    assert client.submitted["metadata"] == {"command": "python -m ray_jobs.train --data /d --storage /s"}
    assert client.submitted["submission_id"].startswith("train-d-")


def test_a_copy_without_git_takes_its_commit_from_the_job(monkeypatch):
    def no_git(*args, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    assert provenance.git_commit() is None
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "c0ffee")
    assert provenance.git_commit() == "c0ffee"


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


def test_on_a_terminal_status_lines_stay_at_the_bottom():
    """Seen to fail: without the cut line kept until its rest comes."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    status = "p 5/40  loss 7.1  grad 0.1  lr 1e-3  9.0k events/s  5 ms/step  data wait 0%  0.52 GiB  about 9s left\n"
    with JobLog("job1", console) as log:
        log.write("2 worker(s) with a GPU\n(RayTrainWorker pid=7) epoch 1/3 step 4/40 nothing\nepoch 1/3 ste")
        log.write(status + "epoch 1/3 done  train loss 7.0\n3/8 trials done: 1 ended\n")
        assert (log.display.step.step, log.display.step.left) == (5, "about 9s left")
        assert log.display.epoch.epoch == 1
        assert log.display.lines == ["3/8 trials done: 1 ended"]
    shown = screen.getvalue()
    assert "2 worker(s) with a GPU" in shown
    assert "5 ms/step" not in shown, "a status line is drawn, not printed"


def test_without_a_terminal_every_line_is_printed_as_it_is(capsys):
    with JobLog("job1", Console(file=io.StringIO(), width=40)) as log:
        log.write("epoch 1/3 step 5/40  loss 7.1 [and more]" + "x" * 60 + "\nlast")
    assert capsys.readouterr().out == "epoch 1/3 step 5/40  loss 7.1 [and more]" + "x" * 60 + "\nlast\n"


def test_bad_variable_is_refused(project, monkeypatch):
    result = run(FakeClient(), monkeypatch, [*TRAIN, "--env", "NAME", *OPTIONS])
    assert isinstance(result.exception, UsageError)


def test_no_cluster_is_one_sentence(monkeypatch):
    """RAY_ADDRESS does not win over what was asked for, as it does in Ray's own client."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:9"):
        submit.connect("http://127.0.0.1:9")
    assert "RAY_API_SERVER_ADDRESS" not in os.environ
    with pytest.raises(ResourceError, match=r"no cluster to submit to: .* is local"):
        submit.connect(None)
