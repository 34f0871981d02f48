"""Which Ray a command uses, decided from what was asked, what `ray start` left, and what answers."""

import socket
from contextlib import nullcontext

import pytest

from ss4rec.cluster import join
from ss4rec.cluster.join import choose
from ss4rec.doctor.machine import check_ray
from ss4rec.errors import ResourceError, UsageError

OUTER = "10.9.8.7"


@pytest.fixture
def machine(monkeypatch):
    """A machine with an outer address on which nothing runs; tests start heads on it."""

    class Machine:
        last, heads, answering = None, set(), set()

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(join.ray_private, "last_started", lambda: Machine.last)
    monkeypatch.setattr(join.ray_private, "running_heads", lambda: set(Machine.heads))
    monkeypatch.setattr(join.ray_private, "outer_address", lambda: OUTER)
    monkeypatch.setattr(join, "_silence", lambda address: None if address in Machine.answering else "refused")
    Machine.heads, Machine.answering = set(), set()

    def start(address, file=True, seen=True):
        Machine.answering.add(address)
        if seen:
            Machine.heads.add(address)
        if file:
            Machine.last = address

    Machine.start, Machine.last = staticmethod(start), None
    return Machine


def test_no_ray_at_all(machine):
    for environment in ({}, {"RAY_ADDRESS": ""}):
        target = choose(None, environment)
        assert target.starts_local
        assert "none was started on this machine" in str(target)
    assert choose("local").reason == "--address is local"
    assert choose(None, {"RAY_ADDRESS": "local"}).reason == "RAY_ADDRESS is local"


@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:26379", "localhost:26379"])
def test_a_head_on_loopback_is_joined_there(machine, address):
    """As `cluster/local.sh start` starts it. Ray's own way is to ask at the outer address, where nobody listens."""
    machine.start("127.0.0.1:26379")
    target = choose(address)
    assert (target.address, target.loopback) == ("127.0.0.1:26379", True)


@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:6379", "localhost:6379", f"{OUTER}:6379"])
@pytest.mark.parametrize("seen", [True, False])
def test_a_head_that_was_started_by_hand(machine, address, seen):
    """It listens at the outer address; `seen`: whether this process may look at the list of processes."""
    machine.start(f"{OUTER}:6379", seen=seen)
    target = choose(address)
    assert (target.address, target.loopback) == (f"{OUTER}:6379", False)


def test_ray_address_wins_over_what_runs_here(machine):
    machine.start("127.0.0.1:26379")
    machine.start("head:6379", file=False, seen=False)
    target = choose(None, {"RAY_ADDRESS": "head:6379"})
    assert str(target) == "head:6379 (RAY_ADDRESS)"
    assert choose("127.0.0.1:26379", {"RAY_ADDRESS": "head:6379"}).reason == "--address"


def test_a_cluster_that_is_gone_stops_nobody(machine):
    machine.last = "127.0.0.1:26379"
    target = choose(None)
    assert target.starts_local
    assert "127.0.0.1:26379 is gone" in target.warnings[0]
    with pytest.raises(ResourceError, match="no Ray runs on this machine"):
        choose("auto")


def test_an_address_that_was_given_must_answer(machine):
    with pytest.raises(ResourceError, match=r"answers at head:6379 \(--address\): refused"):
        choose("head:6379")
    with pytest.raises(ResourceError, match=r"answers at 127.0.0.1:7 \(RAY_ADDRESS\)"):
        choose(None, {"RAY_ADDRESS": "127.0.0.1:7"})


def test_two_rays_on_a_machine(machine):
    machine.start("127.0.0.1:6380")
    machine.start("127.0.0.1:6379")
    target = choose(None)
    assert target.address == "127.0.0.1:6379"
    assert "127.0.0.1:6380" in target.warnings[0]
    machine.last = None
    assert choose(None).starts_local, "without Ray's file they may be anybody's"
    with pytest.raises(ResourceError, match=r"2 clusters run.*127.0.0.1:6379, 127.0.0.1:6380"):
        choose("auto")
    machine.heads.remove("127.0.0.1:6380")
    assert choose("auto").address == "127.0.0.1:6379"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://head:8265", "ss4rec submit VERB --address http://head:8265"),
        ("https://head/", "is the dashboard"),
        ("ray://head:10001", "is Ray Client"),
        ("head", "give a cluster's HOST:PORT"),
        ("head:port", "give a cluster's HOST:PORT"),
        (":6379", "give a cluster's HOST:PORT"),
        ("head:99999", "give a cluster's HOST:PORT"),
        ("anyscale://x", "give a cluster's HOST:PORT"),
    ],
)
def test_each_other_form_is_one_sentence(machine, address, words):
    for given, environment in ((address, {}), (None, {"RAY_ADDRESS": address})):
        with pytest.raises(UsageError) as refused:
            choose(given, environment)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)


def test_doctor_says_what_a_command_would_do(machine, monkeypatch):
    (check,) = check_ray(None, [])
    assert (check.name, check.status) == ("which Ray", "ok")
    assert check.found == f"commands use {choose(None)}"
    machine.last = "127.0.0.1:26379"
    (check,) = check_ray(None, [])
    assert (check.status, "is gone" in check.found) == ("warn", True)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    (check,) = check_ray(None, [])
    assert (check.status, "Ray Client" in check.found) == ("fail", True)


def test_a_knock_at_a_real_door():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "refused" in join._silence(address)
        server.listen()
        assert join._silence(address) is None


@pytest.mark.parametrize(("failures", "said"), [(2, 2), (3, 2)])
def test_a_local_ray_that_gave_up_its_start_is_started_again(failures, said, monkeypatch):
    from ss4rec.cluster import connect

    begun, told = [], []

    def init(**_options):
        begun.append(1)
        if len(begun) <= failures:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(connect.ray, "init", init)
    monkeypatch.setattr(connect.ray, "shutdown", lambda: None)
    monkeypatch.setattr(connect, "announce", told.append)
    with nullcontext() if failures < 3 else pytest.raises(ResourceError, match="three tries"):
        connect._init(choose("local"), dashboard=False)
    assert len(begun) == 3
    assert len(told) == said
