"""Fixtures shared by all tests: small prepared data, and an environment in which Ray stays on loopback."""

import os
from pathlib import Path

import pytest

os.environ.update(
    {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: nodes use 127.0.0.1
        "OMP_NUM_THREADS": "1",  # small tensors; several processes share two cores
        "RAY_ADDRESS": "local",  # never join a cluster that happens to run on this machine
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_num_workers_soft_limit": "8",  # idle workers stay: each new one costs seconds
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody takes over the work of a node that a test ends
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "GLOO_SOCKET_IFNAME": "lo",
        "TP_SOCKET_IFNAME": "lo",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "HF_HUB_OFFLINE": "1",
    }
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A prepared folder of about 150 synthetic users."""
    from ss4rec.data.synth.generate import synth

    out = tmp_path_factory.mktemp("data") / "small"
    synth(out, users=150, items=120, mean_len=26, seed=1)
    return out
