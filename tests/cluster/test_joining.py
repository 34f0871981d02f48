"""Joining real clusters: a head of cluster/local.sh, one of `ray start --head` by hand with a token, both at once, a
head that is gone, one of another version, one that wants no token.

What decides is tested without Ray in test_join.py. Here a process with a user's environment joins each in turn and asks
where it is.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.progress import started
from tests.ray_head import begun

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
HAND, SCRIPT_PORT, DASHBOARD = 26490, 26480, 28465
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

JOIN = """
import json, os, sys
import ray
import ray.data
from ray._common.usage import usage_constants
from ray._private import ray_constants
from ss4rec.cluster.connect import cluster
from ss4rec.errors import SS4RecError

class Answers:
    def answer(self):
        return "answered"

class Twice:
    def __call__(self, batch):
        return {"id": 2 * batch["id"]}

for address, environment, act in json.loads(sys.argv[1]):
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(environment)
    try:
        with cluster(address, dashboard=False):
            context = ray.get_runtime_context()
            where = ray.get(ray.remote(num_cpus=1)(lambda: os.environ.get("RAY_ADDRESS", "")).remote())
            answer = {"at": context.gcs_address, "nodes": len(ray.nodes())}
            if act == "an actor":
                answer["actor"] = ray.get(ray.remote(Answers).remote().answer.remote(), timeout=60)
            if act == "map":
                rows = ray.data.range(4).map_batches(Twice, compute=ray.data.ActorPoolStrategy(size=1))
                answer["sum"] = sum(row["id"] for row in rows.take_all())
            if act == "pretend another version":
                client = ray._private.worker.global_worker.gcs_client
                metadata = json.dumps({"ray_version": "2.40.0", "python_version": "3.9.1"}).encode()
                place = {"namespace": ray_constants.KV_NAMESPACE_CLUSTER, "overwrite": True}
                client.internal_kv_put(usage_constants.CLUSTER_METADATA_KEY, metadata, **place)
    except SS4RecError as error:
        answer = {"error": str(error), "code": error.exit_code}
    print("ANSWER", json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A user's environment: nothing said about Ray, a token from before, a folder of its own for Ray."""
    left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    with tempfile.TemporaryDirectory(prefix="ss4rec-join-", dir="/tmp") as folder:
        clean |= {"HOME": str(tmp_path_factory.mktemp("home")), "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=clean, check=True, capture_output=True)
        yield clean


def join(environment, *rows):
    """Join as each row (address, variables, what to do there) says; return the answers and what was printed."""
    told = subprocess.run(
        [sys.executable, "-c", JOIN, json.dumps([(*row, "")[:3] for row in rows])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert told.returncode == 0, told.stderr
    answers = [json.loads(line[7:]) for line in told.stdout.splitlines() if line.startswith("ANSWER")]
    assert "Traceback" not in told.stderr
    return answers, told.stderr


@contextmanager
def by_hand(environment):
    """`ray start --head` with Ray's own defaults, but for the port and CPUs."""
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        f"--port={HAND}",
        "--num-cpus=2",
        "--include-dashboard=false",
    ]
    command += ["--object-store-memory=100000000", "--disable-usage-stats"]
    with tempfile.TemporaryDirectory() as folder:
        head = started(lambda: begun(command, environment, Path(folder) / "log"))
        try:
            yield
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait()


@contextmanager
def by_script(environment, tmp_path):
    settings = {"SS4REC_PORT": str(SCRIPT_PORT), "SS4REC_DASHBOARD_PORT": str(DASHBOARD), "SS4REC_CPUS": "2"}
    settings |= {"SS4REC_STATE": str(tmp_path / "state"), "PATH": f"{Path(RAY).parent}:{environment['PATH']}"}
    script = [str(ROOT / "cluster/local.sh")]

    def start():
        told = subprocess.run([*script, "start"], env=environment | settings, capture_output=True, text=True)
        assert told.returncode == 0, told.stdout + told.stderr

    try:
        started(start)
        yield
    finally:
        subprocess.run([*script, "stop"], env=environment | settings, capture_output=True)


def test_a_head_that_wants_no_token_is_joined_without_one(environment):
    """The token lies in the home folder all the same; with it every actor of a job would be refused."""
    with by_hand(environment | {"RAY_AUTH_MODE": "disabled"}):
        rows = [(f"127.0.0.1:{HAND}", {}, "an actor"), (f"127.0.0.1:{HAND}", {}, "map")]
        answers, said = join(environment, *rows)
    assert answers[0]["actor"] == "answered"
    assert answers[1]["sum"] == 12
    assert "core_worker.cc" not in said, "an actor pool of Ray Data starts without a line of error"


def test_heads_of_both_kinds(environment, tmp_path):
    outer = socket.gethostbyname(socket.gethostname())
    script, hand = f"127.0.0.1:{SCRIPT_PORT}", f":{HAND}"
    with by_script(environment, tmp_path):
        # Four ways to name the only cluster, which listens on loopback; none says anything about the token.
        answers, said = join(
            environment,
            (None, {}),
            ("auto", {}),
            (script, {}),
            (None, {"RAY_ADDRESS": f"localhost:{SCRIPT_PORT}"}),
        )
        assert [answer["at"] for answer in answers] == [script] * 4
        assert "joining the Ray at 127.0.0.1" in said
        with by_hand(environment):
            answers, said = join(
                environment,
                (None, {}),
                (f"{outer}{hand}", {}),
                (f"127.0.0.1{hand}", {}),
                (script, {}),
                (None, {"RAY_ADDRESS": f"{outer}{hand}"}, "pretend another version"),
                (None, {}),
            )
            where = [answer.get("at", "") for answer in answers[:5]]
            assert [address.endswith(hand) for address in where] == [True, True, True, False, True]
            assert where[3] == script
            assert f"1 more Ray on this machine ({script})" in said
            assert answers[5]["code"] == 2
            assert "runs Ray 2.40.0 on Python 3.9.1, this environment Ray" in answers[5]["error"]
            assert "\n" not in answers[5]["error"]
        # The newest `ray start` is gone and its file is still there.
        answers, said = join(environment, (None, {}), (f"127.0.0.1{hand}", {}))
        assert answers[0]["nodes"] == 1
        assert not answers[0]["at"].endswith((hand, script))
        assert "is gone" in said
        assert answers[1]["code"] == 2
        assert "no Ray cluster answers" in answers[1]["error"]


def test_a_token_that_the_head_does_not_know(environment, tmp_path):
    with by_hand(environment):
        stranger = environment | {"RAY_AUTH_TOKEN": "0" * 64}
        answers, said = join(stranger, (None, {}))
    assert answers[0]["code"] == 2
    assert "token" in answers[0]["error"]
    assert len(said.splitlines()) < 8, said
