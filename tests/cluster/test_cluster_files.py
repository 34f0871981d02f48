"""Every cluster file passes its offline check, and a planted mistake of each kind is caught by name."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster import validate

CLUSTER = Path(validate.__file__).parent
FILES = validate.all_files()
SCRIPTS = sorted((CLUSTER.parent / "tools").glob("*.sh"))

VARIABLE = 'env: [{name: RAY_enable_autoscaler_v2, value: "1"}]'
MISTAKES = [
    ("kuberay/rayservice.yaml", "serveConfigV2: |", "serveConfig: |", "serveConfig"),
    ("kuberay/rayservice.yaml", "ray_serve:build", "ray_serve:make", "no such function"),
    ("kuberay/rayservice.yaml", "tokens: /etc/ss4rec/tokens", "", "give --tokens"),
    ("kuberay/rayservice.yaml", "precision: int8", "precision: int4", "int4"),
    ("kuberay/rayservice.yaml", "registry: /mnt", "registri: /mnt", "registri"),
    ("kuberay/rayservice.yaml", "postgresql://ss4rec@postgres/ss4rec", "events.db", "need postgresql"),
    ("kuberay/rayservice.yaml", "mode: token", "mode: disabled", "anyone who reaches"),
    ("kuberay/rayjob-train.yaml", "rayStartParams:", "rayStartParam:", "rayStartParam"),
    ("kuberay/rayjob-train.yaml", "name: ss4rec-train", "name: ss4rec_train", "DNS-1035"),
    ("kuberay/rayjob-train.yaml", "name: ss4rec-train", "name: " + "a" * 48, "at most 47"),
    (
        "kuberay/rayjob-train.yaml",
        "shutdownAfterJobFinishes: true",
        "suspend: false",
        "shutdownAfterJobFinishes",
    ),
    ("kuberay/rayjob-train.yaml", "--name ml-1m-production", "", "without --name"),
    ("kuberay/rayjob-train.yaml", "backoffLimit: 3", 'backoffLimit: "3"', "backoffLimit"),
    ("kuberay/rayjob-train.yaml", "backoffLimit: 3", "backoffLimit: 0", "end of the job"),
    (
        "kuberay/rayjob-train.yaml",
        "backoffLimit: 3",
        "submissionMode: SidecarMode\n  submitterConfig: {}",
        "Sidecar",
    ),
    ("kuberay/rayjob-train.yaml", "name: ray-worker", "name: proxy", "must be the first"),
    ("kuberay/rayjob-train.yaml", "WANDB_MODE: offline", "WANDB_MODE offline", "runtimeEnvYAML"),
    ("kuberay/rayjob-train.yaml", "    env_vars:", "    env_var:", "no field env_var"),
    ("kuberay/rayjob-drift.yaml", "--set fail_on=never", "", "would be retried"),
    (
        "kuberay/rayjob-drift.yaml",
        "rayStartParams: {}",
        "rayStartParams: {labels: a=b}",
        "labels is not allowed",
    ),
    (
        "kuberay/rayjob-tune.yaml",
        "rayStartParams: {}",
        'rayStartParams: {memory: "1"}\n        resources: {CPU: "8"}',
        "not both",
    ),
    (
        "kuberay/raycluster.yaml",
        "image: ss4rec:0.1.0",
        f"image: ss4rec:0.1.0\n            {VARIABLE}",
        "give one of them",
    ),
    ("kuberay/rayjob-tune.yaml", "restartPolicy: Never", "restartPolicy: Always", "restartPolicy"),
    ("kuberay/rayjob-tune.yaml", "ray_jobs.tune", "ray_jobs.tuen", "no such verb: tuen"),
    ("kuberay/rayjob-drift.yaml", "maxReplicas: 2", "maxReplicas: -1", "maxReplicas"),
    ("kuberay/raycluster.yaml", "{mode: token}", "{mode: disabled}", "authOptions.mode"),
    ("kuberay/raycluster.yaml", '"2.60.0"', '"2.40.0"', "2.52"),
    (
        "kuberay/raycluster.yaml",
        "mountPath: /mnt/cluster_storage",
        "mountPath: /data",
        "storage is not one claim",
    ),
    ("kuberay/raycluster.yaml", "key: nvidia.com/gpu", "key: nvidia.com/gpus", "tolerate"),
    ("kuberay/raycluster.yaml", 'limits: {cpu: "2"', 'limits: {cpu: "3"', "equal"),
    ("kuberay/raycluster.yaml", "kind: RayCluster", "kind: RayKluster", "kind RayKluster"),
    ("kuberay/storage.yaml", "ReadWriteMany]", "ReadWriteOnce]", "ReadWriteOnce"),
    ("kuberay/networkpolicy.yaml", "policyTypes", "policyType", "policyType"),
    ("kuberay/storage.yaml", "spec:", "spec: [", "no YAML"),
    ("ray-up/aws.yaml", "head_node_type: head", "head_node_type: haed", "head"),
    ("ray-up/aws.yaml", "idle_timeout_minutes", "idle_timeout_minute", "idle_timeout_minute"),
    ("ray-up/onprem.yaml", "ssh_user", "ssh_users", "ssh_users"),
    ("slurm/train.sbatch", "--gpus-per-node", "--gpus-per-nod", "gpus-per-nod=4: unknown option"),
    ("slurm/train.sbatch", "#SBATCH --exclusive\n", "", "--exclusive"),
    ("slurm/train.sbatch", "finish() {", "finish() ", "syntax error"),
    ("skypilot/runpod.yaml", "accelerators", "accelerator", "accelerator"),
    ("skypilot/runpod.yaml", "workdir: .", "workdir: .\nnum_nodes: 2", "one node"),
    ("skypilot/multinode.yaml", "mode: MOUNT", "mode: MONUT", "file_mounts"),
    ("skypilot/multinode.yaml", "  fi\n", "", "syntax error"),
    ("local.sh", "esac\n", "", "syntax error"),
    ("local.sh", "set -euo pipefail", "", "pipefail"),
    ("local.sh", '[ "$tries" -lt 600 ]', '[ "$trys" -lt 600 ]', "SC2154"),
    ("grafana/ss4rec.json", "ray_ss4rec_loss", "ray_ss4rec_los", "no metric ray_ss4rec_los"),
    ("grafana/ss4rec.json", "ray_node_gram_used", "ray_node_gram_usd", "no metric ray_node_gram_usd"),
    ("grafana/ss4rec.json", '"panels"', '"panel"', "KeyError"),
    (
        "grafana/ss4rec-watch.json",
        "ss4rec_watch_regret",
        "ss4rec_watch_regrets",
        "no metric ss4rec_watch_regrets",
    ),
    ("kuberay/cronjob-watch.yaml", "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", "be refused"),
    ("kuberay/cronjob-watch.yaml", "backoffLimit: 3", "backoffLimit: 0", "wait for the next night"),
    ("kuberay/cronjob-watch.yaml", "30 3 * * *", "30 3 *", "does not match"),
    ("kuberay/cronjob-watch.yaml", "submit watch", "submit wacth", "no such verb: wacth"),
    ("workflow/watch.yaml", "30 3 * * *", "30 3 *", "cron of five fields"),
    ("workflow/watch.yaml", "on:\n", "on: push\nwhen:\n", "cron of five fields"),
    ("workflow/watch.yaml", "concurrency: watch-films\n", "", "be refused"),
    ("workflow/watch.yaml", "watch-films\n", "watch-films\n}", "no YAML"),
    ("runpod/start.sh", "find_storage() {", "find_storage() ", "syntax error"),
    ("Dockerfile", "USER 1000\n", "", "root"),
    ("Dockerfile", "WORKDIR /src", "WORKDIR src", "DL3000"),
    ("Dockerfile", "WORKDIR /src", "WORKDRI /src", "unexpected 'W'"),
    ("Dockerfile", "COPY pyproject.toml", "COPY pyproject.tom", "not in the project"),
    ("Dockerfile", "--from=build", "--from=bild", "no such stage"),
]


def test_every_kind_is_there():
    names = {str(path.relative_to(CLUSTER)) for path in FILES}
    assert {name for name, *_ in MISTAKES} <= names
    assert len(names) == 19


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda path: path.name)
def test_file_is_valid(path):
    assert validate.check_file(path) == []


@pytest.mark.parametrize(("name", "right", "wrong", "said"), MISTAKES)
def test_planted_mistake_is_caught(name, right, wrong, said, tmp_path):
    text = (CLUSTER / name).read_text()
    assert right in text
    broken = tmp_path / name
    broken.parent.mkdir(exist_ok=True)
    broken.write_text(text.replace(right, wrong, 1))
    assert said in " ".join(validate.check_file(broken))


def test_a_group_of_fixed_size_needs_both_of_its_bounds(tmp_path):
    cluster = yaml.safe_load((CLUSTER / "kuberay/raycluster.yaml").read_text())
    cluster["spec"]["enableInTreeAutoscaling"] = False
    broken = tmp_path / "kuberay/raycluster.yaml"
    broken.parent.mkdir()
    broken.write_text(yaml.safe_dump(cluster))
    assert validate.check_file(broken) == []
    del cluster["spec"]["workerGroupSpecs"][0]["minReplicas"]
    broken.write_text(yaml.safe_dump(cluster))
    assert "must both be there" in " ".join(validate.check_file(broken))


def test_exit_code(tmp_path, capsys):
    broken = tmp_path / "broken.sh"
    broken.write_text("if true\n")
    assert validate.main([str(broken)]) == 1
    assert "broken.sh: refused" in capsys.readouterr().out
    assert validate.main([str(CLUSTER / "local.sh")]) == 0


@pytest.fixture
def machine(tmp_path):
    """An environment with a stub `ray` that records its calls, fake nvidia-smi, ip and hostname."""
    stubs = {
        "ray": 'echo "$* | auth=$RAY_AUTH_MODE nccl=${NCCL_SOCKET_IFNAME:-}" >>"$CALLS"',
        "nvidia-smi": 'printf "GPU 0: NVIDIA RTX A6000\\nGPU 1: NVIDIA RTX A6000\\n"',
        "ip": 'printf "1: lo    inet 127.0.0.1/8 scope\\n7: ens1    inet 10.65.0.2/16 brd\\n"',
        "hostname": "echo 10.65.0.2",
        "scontrol": 'echo "scontrol $*" >>"$CALLS"; printf "node1\\nnode2\\n"',
        "srun": 'echo "srun $*" >>"$CALLS"',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in stubs.items():
        stub = folder / name
        stub.write_text(f"#!/usr/bin/env bash\n{body}\n")
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "SS4REC_STORAGE": str(tmp_path / "storage"),
    }


def run(script, *arguments, env, cwd=None):
    done = subprocess.run(
        ["bash", str(CLUSTER / script), *arguments], env=env, cwd=cwd, capture_output=True, text=True
    )
    calls = Path(env["CALLS"])
    return done, calls.read_text() if calls.exists() else ""


def test_pod_starts_one_node_with_all_gpus(machine):
    done, calls = run("runpod/start.sh", env=machine)
    assert done.returncode == 0, done.stderr
    assert calls.startswith("get-auth-token --generate")
    assert "start --head --block --port=6379 --node-ip-address=127.0.0.1 --num-gpus=2" in calls
    assert "--dashboard-host=127.0.0.1" in calls
    assert "auth=token" in calls
    assert f"--storage {machine['SS4REC_STORAGE']}/runs --workers 2" in done.stdout


INSTANT = {"PRIMARY_ADDR": "10.65.0.2", "NODE_ADDR": "10.65.0.2", "RAY_AUTH_TOKEN": "secret"}


def test_instant_cluster_rank_0_is_the_head_on_the_fast_interface(machine):
    done, calls = run("runpod/start.sh", env=machine | INSTANT | {"NODE_RANK": "0"})
    assert done.returncode == 0, done.stderr
    assert "start --head --block --port=6379 --node-ip-address=10.65.0.2" in calls
    assert "nccl=ens1" in calls


def test_instant_cluster_other_ranks_join(machine):
    done, calls = run("runpod/start.sh", env=machine | INSTANT | {"NODE_RANK": "1"})
    assert done.returncode == 0, done.stderr
    assert "start --block --address=10.65.0.2:6379 --node-ip-address=10.65.0.2 --num-gpus=2" in calls
    assert "--head" not in calls


def test_plain_host_joins_a_head(machine):
    environment = machine | {"RAY_AUTH_TOKEN": "secret", "SS4REC_PORT": "6399"}
    done, calls = run("runpod/start.sh", "worker", "192.0.2.1", env=environment)
    assert done.returncode == 0, done.stderr
    assert "--address=192.0.2.1:6399" in calls


@pytest.mark.parametrize(
    ("arguments", "extra", "said"),
    [
        ((), INSTANT | {"NODE_RANK": "0", "RAY_AUTH_TOKEN": ""}, "set RAY_AUTH_TOKEN"),
        ((), INSTANT, "NODE_RANK"),
        ((), INSTANT | {"NODE_RANK": "1", "NODE_ADDR": "10.1.1.1"}, "no interface"),
        (("worker",), {"RAY_AUTH_TOKEN": "secret"}, "needs the head's address"),
        (("king",), {}, "unknown role"),
        ((), {"SS4REC_STORAGE": "/dev/null/x"}, "cannot be written"),
    ],
)
def test_start_refuses(arguments, extra, said, machine):
    done, calls = run("runpod/start.sh", *arguments, env=machine | extra)
    assert done.returncode != 0
    assert said in done.stderr
    assert "start" not in calls


SLURM = {
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "77",
    "DATA": "/shared/data",
    "STORAGE": "/shared/runs",
    "NAME": "run1",
}


def test_sbatch_runs_one_command_over_all_nodes(machine, tmp_path):
    done, calls = run("slurm/train.sbatch", env=machine | SLURM, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "srun ray symmetric-run --address node1:6477 --min-nodes 2 -- python -m ray_jobs.train" in calls
    assert "--data /shared/data --preset production --name run1 --storage /shared/runs --workers 8" in calls
    assert "requeue" not in calls


def test_sbatch_requeues_when_time_is_nearly_up(machine, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.write_text("#!/usr/bin/env bash\nkill -USR1 $PPID\nexec sleep 5 >/dev/null 2>&1\n")
    (tmp_path / "runs" / "run1").mkdir(parents=True)
    here = {"STORAGE": str(tmp_path / "runs"), "CHECKPOINT_S": "0"}
    done, calls = run("slurm/train.sbatch", env=machine | SLURM | here, cwd=tmp_path)
    assert (tmp_path / "runs" / "run1" / "notice").read_text() == "Slurm's time is nearly up\n"
    assert "scontrol requeue 77" in calls
    assert done.returncode == 128 + signal.SIGUSR1


def test_sbatch_names_what_is_not_set(machine, tmp_path):
    done, _ = run("slurm/train.sbatch", env=machine | SLURM | {"DATA": ""}, cwd=tmp_path)
    assert done.returncode != 0
    assert "set DATA" in done.stderr


@pytest.mark.parametrize(
    ("rank", "said"), [("0", "start.sh head"), ("1", "start.sh worker 127.0.0.1")], ids=["head", "worker"]
)
def test_skypilot_ranks(rank, said, machine, tmp_path):
    """Rank 0 starts the head and submits; others join it. start.sh and the environment are stand-ins."""
    for name, body in {
        "cluster/runpod/start.sh": 'echo "start.sh $*" >>"$CALLS"',
        "bin/ray": 'echo "ALIVE"; echo "ALIVE"',
        "bin/ss4rec": 'echo "ss4rec $*" >>"$CALLS"',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    task = yaml.safe_load((CLUSTER / "skypilot" / "multinode.yaml").read_text())
    # The port of the head is open here: this process listens on it.
    script = (
        task["run"]
        .replace("source .venv/bin/activate", "")
        .replace("SS4REC_PORT=6399", f"SS4REC_PORT={listen()}")
    )
    environment = machine | {
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2",
        "SKYPILOT_NODE_RANK": rank,
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "4",
        "DATA": "/d",
        "NAME": "run1",
    }
    subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    calls = Path(machine["CALLS"]).read_text()
    assert said in calls
    assert ("submit train" in calls and "--workers 8" in calls) is (rank == "0")


LISTENERS = []


def listen():
    """Listen on a free loopback port for the rest of this process."""
    import socket

    LISTENERS.append(socket.create_server(("127.0.0.1", 0)))
    return LISTENERS[-1].getsockname()[1]


def test_local_needs_ray_on_path(machine):
    environment = machine | {"PATH": "/usr/bin:/bin", "SS4REC_STATE": str(Path(machine["HOME"]) / "state")}
    assert "no ray on PATH" in run("local.sh", "start", env=environment)[0].stderr
    assert run("local.sh", "status", env=environment)[0].stdout == "not running\n"
    assert "usage" in run("local.sh", env=environment)[0].stderr


def test_module_runs_from_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "cluster.validate", str(CLUSTER / "kuberay" / "storage.yaml")],
        cwd=CLUSTER.parent,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "storage.yaml: ok\n")


def test_a_head_that_ray_gave_up_is_started_again(tmp_path):
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/tries\necho 'The current node timed out during startup.'; exit 1\n"
    )
    ray.chmod(0o755)
    environment = {"SS4REC_STATE": str(tmp_path), "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "x" * 32}
    environment["CALLS"] = str(tmp_path / "calls")
    environment["PATH"] = f"{ray.parent}:{os.environ['PATH']}"
    told = run("local.sh", "start", env=environment)[0]
    assert told.returncode == 1
    assert told.stderr.count("trying again") == 2
    assert "three tries" in told.stderr
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_stopping_a_head_leaves_no_address_behind(machine, tmp_path):
    """Ray's file of its last cluster goes too, if it names this head: the next `train` would look for it there.

    Seen to fail: without the `rm` in `stop`.
    """
    (tmp_path / "bin/ray").write_text("#!/bin/sh\necho 'Ray runtime started'; exec sleep 600\n")
    left = tmp_path / "ray/ray_current_cluster"
    left.parent.mkdir()
    environment = machine | {"SS4REC_STATE": str(tmp_path / "state"), "RAY_TMPDIR": str(tmp_path)}
    environment |= {"SS4REC_PORT": "26999", "RAY_AUTH_TOKEN": "x" * 32, "SS4REC_CPUS": "1"}
    for address, stays in (("127.0.0.1:26999", False), ("10.0.0.7:6379", True)):
        started = run("local.sh", "start", env=environment | {"SS4REC_DASHBOARD_PORT": str(listen())})[0]
        assert started.returncode == 0, started.stderr
        left.write_text(address)
        assert run("local.sh", "stop", env=environment)[0].stdout == "stopped\n"
        assert left.exists() is stays
