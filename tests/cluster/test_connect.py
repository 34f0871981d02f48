"""Joining a cluster: an address that nobody listens at is refused at once, whoever left it."""

import socket

import pytest

from ss4rec.cluster.connect import cluster
from ss4rec.errors import ResourceError


@pytest.fixture
def dead_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_given_address_without_a_cluster_is_refused(dead_address):
    with pytest.raises(ResourceError, match=f"{dead_address} \\(--address\\)"), cluster(dead_address):
        pass


def test_an_address_that_a_dead_head_left_is_refused(dead_address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", dead_address)
    with pytest.raises(ResourceError, match="--address local"), cluster():
        pass
