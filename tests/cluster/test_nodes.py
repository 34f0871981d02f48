"""Several Ray nodes on one machine, each with an address and (pretended) GPUs of its own, as a user meets them: a head
by cluster/local.sh with a token, jobs over HTTP, a node that joins late, a node that does not share the storage.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ss4rec
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.split import parse_cut, split
from ss4rec.data.synth.generate import synth
from ss4rec.train.ray_gauges import GAUGES, PREFIX
from tests.progress import started, until
from tests.ray_head import begun

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PORT, DASHBOARD = 26579, 28665
EPOCHS = (24, 200, 1000)
"""In one of these trainings all gauges must have been seen while it ran."""
URL = f"http://127.0.0.1:{DASHBOARD}"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SPACE = """
from optuna.distributions import FloatDistribution
from tuning.space import SearchSpace
SPACE = SearchSpace(
    base="debug",
    fixed={"train.epochs": 1, "tracking.wandb": "disabled", "data.source": "local"},
    parameters={"optim.lr": FloatDistribution(1e-3, 1e-2)},
)
"""


# `ray start` of a machine that has loopback addresses only: it would put the machine's outer address in their place.
START = """
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER, services.resolve_ip_for_localhost = True, lambda host: host
from ray.scripts.scripts import main
main()
"""


class Nodes:
    """A head with one CPU and no GPU; others join it."""

    def __init__(self, folder, ray_folder):
        self.folder, self.ray_folder, self.joined = folder, ray_folder, {}
        self.environment = os.environ | {
            "SS4REC_STATE": str(folder / "state"),
            "SS4REC_PORT": str(PORT),
            "SS4REC_DASHBOARD_PORT": str(DASHBOARD),
            "SS4REC_CPUS": "1",
            "RAY_TMPDIR": str(ray_folder),
            "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
            "RAY_AUTH_MODE": "token",
            "RAY_metrics_report_interval_ms": "1000",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        del self.environment["RAY_ADDRESS"]

    def start(self):
        script = [ROOT / "cluster/local.sh", "start"]

        def start():
            head = subprocess.run(script, env=self.environment, capture_output=True, text=True)
            assert head.returncode == 0, head.stdout + head.stderr

        started(start)

    def join(self, number, gpus, private=None):
        """Start a node with one CPU, once; `private` is a folder that is another one there (a mount of its own)."""
        if number in self.joined:
            return
        ray = [sys.executable, "-c", START, "start", "--block", f"--address=127.0.0.1:{PORT}", "--num-cpus=1"]
        ray += [f"--node-ip-address=127.0.0.{number}", f"--num-gpus={gpus}", "--disable-usage-stats"]
        ray += [
            f"--dashboard-agent-listen-port={DASHBOARD + 100 + number}",
            "--object-store-memory=100000000",
            # In one folder the agent of a node would delete uploads that it no longer needs under another's job.
            f"--temp-dir={self.ray_folder / str(number)}",
        ]
        if private is not None:
            script = 'mount -t tmpfs none "$0" && exec "$@"'
            ray = ["unshare", "--mount", "sh", "-c", script, str(private), *ray]
        log = self.folder / f"node-{number}.log"
        self.joined[number] = started(lambda: begun(ray, self.environment, log))

    def ss4rec(self, *arguments, **environment):
        """Run the command line in a process of its own."""
        return subprocess.run(
            [str(BIN / "ss4rec"), *map(str, arguments)],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )

    def submit(self, verb, *options, env=(), **environment):
        """Submit a job and follow it to its end."""
        flags = [flag for name in env for flag in ("--env", name)]
        return self.ss4rec("submit", verb, "--address", URL, *flags, "--", *options, **environment)

    def stop(self):
        for process in self.joined.values():
            process.send_signal(signal.SIGTERM)
        for process in self.joined.values():
            process.wait()
        subprocess.run([ROOT / "cluster/local.sh", "stop"], env=self.environment, capture_output=True)

    def metrics(self):
        """Scrape every node as Prometheus would, by Ray's file of targets; return {name: {labels}}."""
        found = {}
        targets = json.loads((self.ray_folder / "ray/prom_metrics_service_discovery.json").read_text())
        for target in targets[0]["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                for line in answer.read().decode().splitlines():
                    if match := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
                        found.setdefault(match[1], {})[match[2]] = float(match[3])
        return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder cut in time, for training and drift."""
    folder = tmp_path_factory.mktemp("cut")
    synth(folder / "csv", users=120, items=100, mean_len=26, seed=1, fmt="csv")
    prepare(folder / "csv", folder / "all", k_core=0)
    split(folder / "all", folder / "cut", parse_cut("2018-12-31"))
    return folder / "cut"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    ray_folder = Path(f"/tmp/ss4rec-n-{os.getpid()}")  # sockets have short names
    ray_folder.mkdir()
    cluster = Nodes(folder, ray_folder)
    try:
        cluster.start()
        cluster.join(2, gpus=2)
        yield cluster
    finally:
        cluster.stop()


def mounts_refused() -> str:
    """Return why a folder cannot be another one for a node's processes, or an empty string."""
    script = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0"', tempfile.gettempdir()]
    try:
        tried = subprocess.run(script, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return (tried.stderr.strip() or f"exit code {tried.returncode}") if tried.returncode else ""


def training(data, storage, *options, epochs=1):
    fixed = (f"train.epochs={epochs}", "tracking.wandb=disabled", "data.source=local", "resources.gpu=no")
    changes = [word for field in fixed for word in ("--set", field)]
    return ["--data", data / "past", "--storage", storage, "--preset", "debug", *changes, *options]


def test_wrong_token_is_refused(nodes, data, tmp_path):
    """Would fail with RAY_AUTH_MODE=disabled in cluster/local.sh."""
    answer = nodes.submit("train", *training(data, tmp_path), RAY_AUTH_TOKEN="f" * 32)
    assert answer.returncode == 2
    assert "RAY_AUTH_TOKEN" in answer.stderr
    assert "job raysubmit" not in answer.stdout
    answer = nodes.submit("train", *training(data, tmp_path), RAY_AUTH_MODE="disabled")
    assert answer.returncode == 2


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A folder that all nodes share."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A folder that the third node does not share; None where no process may mount anything."""
    return None if mounts_refused() else tmp_path_factory.mktemp("private")


def test_jobs_on_nodes_that_come(nodes, data, storage, private):
    """Three workers do not fit two nodes of one CPU; when a third joins they do. Meanwhile Prometheus finds all gauges.
    Lines of the job are JSON with run, worker and step.
    """

    def three(epochs):
        return training(data, storage, "--workers", "3", "--name", "three", epochs=epochs)

    refused = nodes.submit("train", *three(EPOCHS[0]))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert re.search(r"3 worker\(s\) of 1 CPU do not fit: [12] node", refused.stdout)

    nodes.join(3, gpus=1, private=private)
    until(lambda: "127.0.0.3" in nodes_listed(nodes), every_s=0.5)
    for epochs in EPOCHS:  # a busy machine shows gauges later; more epochs continue the run
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(nodes.submit, "train", *three(epochs), env=["SS4REC_LOG=json"])
            (missing,) = until(lambda job=job: gauges_or_the_end(nodes, "three", job), every_s=0.5)
            trained = job.result()
        assert trained.returncode == 0, trained.stdout + trained.stderr
        if not missing:
            break
    assert json.loads((storage / "three/record.json").read_text())["workers"] == 3
    assert json.loads((storage / "three/result.json").read_text())["test"]
    lines = [json.loads(text) for text in re.findall(r"\{\"time\".*\}", trained.stdout)]
    assert {line["worker"] for line in lines if line.get("run") == "three"} == {"driver", 0, 1, 2}
    assert any(line["step"] > 0 and "training ended" in line["message"] for line in lines if "step" in line)
    assert not missing


def test_a_sweep_and_a_drift_report_over_http(nodes, data, storage, private):
    nodes.join(3, gpus=1, private=private)
    run = storage / "three"
    if not (run / "result.json").exists():  # the test before, which trains it, was not chosen
        changes = {"train.epochs": 1, "tracking.wandb": "disabled", "data.source": "local"}
        ss4rec.train(data / "past", "debug", changes=changes, storage=storage, name="three")
    space = storage / "space.py"
    space.write_text(SPACE)
    options = [
        "--data",
        data / "past",
        "--space",
        space,
        "--trials",
        "1",
        "--name",
        "sweep",
        "--storage",
        storage,
    ]
    tuned = nodes.submit("tune", *options, "--set", "resources.gpu=no")
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert (storage / "sweep/best.json").exists()

    few = [word for field in ("min_users=10", "wandb=disabled", "window=year") for word in ("--set", field)]
    drifted = nodes.submit("drift", "--data", data, "--run", run, "--out", storage / "drift", *few)
    assert drifted.returncode in (0, 10), drifted.stdout + drifted.stderr
    assert (storage / "drift/report.html").exists()


def test_a_folder_that_one_node_does_not_share(nodes, data, private):
    """Training there is refused and names the node; doctor finds what is wrong with these nodes."""
    if private is None:
        pytest.skip(f"`unshare --mount` is not permitted here: {mounts_refused()}")
    nodes.join(3, gpus=1, private=private)
    unshared = nodes.submit("train", *training(data, private, "--workers", "2", "--name", "unshared"))
    assert unshared.returncode == 2
    assert "is not the same folder on every node (1 of 3 failed)" in unshared.stdout
    assert "127.0.0.3: the driver's marker file is not there" in unshared.stdout
    assert not (private / "unshared").exists()

    look_at_every_node(nodes, private)


def missing_gauges(nodes, run):
    """Gauges that no node shows for worker 0 of `run`."""
    scraped = nodes.metrics()
    labels = {name: " ".join(scraped.get(f"ray_{PREFIX}{name}", {})) for name in GAUGES}
    return [name for name, text in labels.items() if f'run="{run}"' not in text or 'worker="0"' not in text]


def gauges_or_the_end(nodes, run, job):
    """Return (missing gauges,) once there are none or the job has ended."""
    over = job.done()
    missing = missing_gauges(nodes, run)
    return (missing,) if over or not missing else None


def nodes_listed(nodes):
    return subprocess.run(
        [str(BIN / "ray"), "list", "nodes", "--address", URL, "--filter", "state=ALIVE"],
        env=nodes.environment,
        capture_output=True,
        text=True,
    ).stdout


def look_at_every_node(nodes, private):
    """Doctor finds what is wrong with these nodes and nothing else: pretended GPUs, a folder that is not shared."""
    answer = nodes.ss4rec("doctor", "--cluster", "--json", "--address", URL, "--storage", private)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    text = answer.stdout
    checks = json.loads(text[text.index("[\n  {") : text.rindex("]") + 1])
    by_group = {}
    for check in checks:
        by_group.setdefault(check["group"], {})[check["name"]] = check
    addresses = {"127.0.0.1", "127.0.0.2", "127.0.0.3"}
    assert set(by_group["versions"]) == set(by_group["kernels"]) == set(by_group["clock"]) == addresses
    failed = {(check["group"], check["name"]) for check in checks if check["status"] == "fail"}
    assert failed == {("GPU", "127.0.0.2"), ("GPU", "127.0.0.3"), *(("storage", name) for name in addresses)}
    assert by_group["GPU"]["127.0.0.2"]["found"] == "Ray counts 2; driver: none; torch uses 0"
    assert "what 127.0.0.1, 127.0.0.2 wrote is not there" in by_group["storage"]["127.0.0.3"]["found"]
    assert "gloo: two ranks added 4 MiB" in by_group["network"]["127.0.0.1 and 127.0.0.2"]["found"]
    assert {check["found"] for check in by_group["Jobs API"].values()} <= {
        "asks for a token",
        "not reachable from any node",
    }
    assert "asks for a token" in by_group["Jobs API"][URL]["found"]
