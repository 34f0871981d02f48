"""`ss4rec doctor` here; with --cluster it asks another function, which tests/cluster tests on real nodes."""

from tests.cli.harness import Case, parametrised


def _listed(seen):
    assert {check["group"] for check in seen.json} >= {"software", "machine", "ray", "kernels", "storage"}
    room = next(check for check in seen.json if check["name"] == "room")
    assert "2 worker(s) x 1 CPU take 2 of the cluster's 2 CPUs" in room["found"]


CASES = (
    Case("doctor --storage {folder}/runs --workers 2 --json", _listed, 1),
    Case(
        "doctor --cluster --storage {folder} --address local --json",
        lambda seen: _has(seen, "[]", "local", str(seen.folder)),
        stub="ss4rec.cli.doctor._look_at_nodes",
        answer=[],
    ),
    Case("doctor --storage {folder}/runs", lambda seen: _short(seen)),
    Case("doctor --storage {folder}/runs --all", lambda seen: _long(seen)),
    Case("doctor --cluster --storage runs --address local", lambda seen: _refused(seen), 2),
)


def _has(seen, out, *args):
    assert seen.out.strip() == out
    assert seen.calls == [(args, {})]


def _short(seen):
    assert "which Ray" in seen.out
    assert "--all shows every check" in seen.out
    assert "safetensors" not in seen.out
    assert len(seen.out.splitlines()) < 25


def _long(seen):
    assert "safetensors" in seen.out
    assert "--all" not in seen.out


def _refused(seen):
    assert "give an absolute path" in seen.err


@parametrised(CASES)
def test_case(case, perform, monkeypatch):
    from ss4rec.cluster import ray_private

    monkeypatch.setattr(ray_private, "cpus", lambda: 2.0)
    monkeypatch.setattr(ray_private, "last_started", lambda: None)  # others may work on this machine
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")  # a row is one line whatever this machine's paths and numbers are
    perform(case)
