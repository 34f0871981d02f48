"""Secrets of a submitted job: its workers have them, and nobody else on the cluster can read them."""

import hashlib
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from ss4rec.cluster import submit
from tests.progress import started, until

KEY = "5ecre7" * 6 + "abcd"
JOB = """
import hashlib, os
import click, ray
from ss4rec.cli import run

def digest():
    return hashlib.sha256(os.environ.get("WANDB_API_KEY", "").encode()).hexdigest()[:12]

@click.command()
def look():
    ray.init(os.environ["CLUSTER"], log_to_driver=False)  # there may be others on this machine
    task = ray.remote(digest)
    own = task.options(runtime_env={"env_vars": {"WORD": "x"}})  # as Ray Train's controller has
    print("driver", digest(), "task", ray.get(task.remote()), "own", ray.get(own.remote()), os.environ["WORD"])

run(look)
"""


def command_lines_with(secret, over):
    """Look at the process list until `over`; return command lines that hold the secret."""
    found = {}
    while not over.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:  # it has ended
                continue
            if secret.encode() in line:
                found[path.parent.name] = line.replace(b"\0", b" ")[:200].decode()
        over.wait(0.005)
    return found


def free_port():
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepted(start):
    """Return the id of a job once the cluster's agent, which comes up behind the head, takes it."""

    def taken():
        try:
            return start()
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise

    return until(taken, every_s=0.5)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_jobs_secrets_stay_out_of_logs_and_of_the_process_list(tmp_path, monkeypatch, request):
    """Secrets: driver, tasks, and tasks with an environment of their own have the key that was sent with the job; while
    they start, no command line on this machine holds it, and no file of Ray's session does afterwards.

    Seen to fail: with the key among Ray's variables it is in the workers' command lines and in `runtime_env_agent.log`;
    without the hook the tasks do not have it.
    """
    (tmp_path / "project").mkdir()
    (tmp_path / "project/look.py").write_text(JOB)
    # A folder of its own, to look at afterwards; short, for sockets lie there.
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0, "temp_dir": str(folder)}
    head |= {"dashboard_agent_listen_port": free_port()}  # others on this machine may have the usual one
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    over, found = threading.Event(), []
    watch = threading.Thread(target=lambda: found.append(command_lines_with(KEY, over)))
    watch.start()
    try:
        # Not as an argument: RAY_ADDRESS, which keeps tests off other clusters, would win.
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{cluster.head_node.webui_url}")
        client = submit.connect(None)
        variables = {"WANDB_API_KEY": KEY, "WORD": "w", "CLUSTER": cluster.address}
        with submit.packed(tmp_path / "project") as package:
            command = f"{sys.executable} look.py"
            job = accepted(lambda: submit.start(client, command, package, variables))
        told = "".join(submit.follow(client, job))
        assert submit.exit_code(client, job) == 0, told
    finally:
        over.set()
        watch.join()
        cluster.shutdown()
    here = hashlib.sha256(KEY.encode()).hexdigest()[:12]
    assert f"driver {here} task {here} own {here} w" in told
    assert found == [{}]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "runtime_env_agent.log" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
