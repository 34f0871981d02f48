"""Fixtures shared by all tests: small prepared data, and an environment in which Ray stays on loopback."""

import os
from pathlib import Path

import pytest

from tests.progress import started

os.environ.update(
    {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: nodes use 127.0.0.1
        "OMP_NUM_THREADS": "1",  # small tensors; several processes share two cores
        "RAY_ADDRESS": "local",  # never join a cluster that happens to run on this machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_num_workers_soft_limit": "8",  # idle workers stay: each new one costs seconds
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody takes over the work of a node that a test ends
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # beside other work a process takes long to start
        "RAY_worker_register_timeout_seconds": "300",
        "GLOO_SOCKET_IFNAME": "lo",
        "TP_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
    }
)


@pytest.fixture(scope="session")
def small_cluster():
    """One Ray cluster of three CPUs for all tests of the process that leave it as they found it.

    The files that use it run in one process (`make test-ray`); a file that ends nodes, changes settings or counts CPUs
    starts its own and runs in a process of its own, since Ray Data does not bear a second cluster in one process.
    """
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        options = {"num_cpus": 3, "include_dashboard": False, "log_to_driver": False}
        started(lambda: ray.init(address="local", **options))
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A prepared folder of about 150 synthetic users."""
    from ss4rec.data.synth.generate import synth

    out = tmp_path_factory.mktemp("data") / "small"
    synth(out, users=150, items=120, mean_len=26, seed=1)
    return out


def pytest_collection_modifyitems(items):
    """Mark what tests/slow.tsv names: `make test` leaves it out."""
    lines = (Path(__file__).parent / "slow.tsv").read_text().splitlines()
    slow = {line.partition("\t")[2] for line in lines if not line.startswith("#")}
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)
