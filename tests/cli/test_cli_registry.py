"""`ss4rec registry`: which run serves, and the way back."""

import pytest

from ss4rec.registry import ModelRegistry
from tests.cli.harness import Case, parametrised


def _promoted(seen):
    assert seen.json == {"model": "models/films", "version": 1, "changed": True, "told": []}
    registry = ModelRegistry(seen.folder / "models" / "films")
    assert registry.history()[0]["reason"] == "the first"


def _listed(seen):
    assert seen.out == (
        "no model in there\nnext: ss4rec registry promote there/NAME --run RUN --reason TEXT\n"
    )


def _empty(seen):
    assert seen.json == {"models": []}


def _either(seen):
    assert "give either --run RUN or --version N" in seen.err


CASES = (
    Case("registry promote models/films --run {run} --reason 'the first' --json", _promoted),
    Case("registry promote models/films --reason why", _either, 2),
    Case("registry promote models/films --version 1 --reason why", lambda s: s.err.index("no model of"), 2),
    Case("registry list there", _listed),
    Case("registry list --json", _empty),
    Case("registry show models/films --json", lambda seen: seen.err.index("no model of a registry"), 2),
    Case(
        "registry rollback models/films --to 1 --reason why --json", lambda s: s.err.index("no model of"), 2
    ),
    Case("registry show kept/films", lambda seen: seen.out.index("next: ss4rec serve --registry kept/films")),
    Case("registry show kept/new", lambda seen: seen.out.index("promote kept/new --version 1 --reason TEXT")),
    Case("registry rollback kept/films --reason why", lambda s: s.out.index("version 1 serves now")),
    Case(
        "registry promote kept/films --version 1 --reason why", lambda s: s.out.index("version 1 serves now")
    ),
)


@pytest.fixture(autouse=True)
def kept(places, tmp_path):
    """A model whose second version serves, and one of which none does."""
    registry = ModelRegistry(tmp_path / "kept" / "films")
    for name in ("run", "other"):
        registry.promote(registry.add(places[name]).version, "better")
    ModelRegistry(tmp_path / "kept" / "new").add(places["run"])


@parametrised(CASES)
def test_registry(case, perform):
    perform(case)


def test_a_whole_story(places, tmp_path, monkeypatch, capsys):
    from tests.cli.harness import perform

    def call(args):
        return perform(Case(args, lambda seen: None), places, tmp_path, monkeypatch, capsys).out

    assert (
        call("registry promote registry/films --run {run} --reason first")
        == "registry/films: version 1 serves now\nnext: ss4rec serve --registry registry/films\n"
    )
    assert "version 1 serves already" in call("registry promote registry/films --version 1 --reason again")
    call("registry promote registry/films --run {other} --reason better")
    listed = call("registry list").splitlines()
    assert listed == ["registry/films: version 2 serves, 2 kept", "next: ss4rec registry show registry/films"]
    back = call("registry rollback registry/films --reason worse")
    assert back.startswith("registry/films: version 1 serves now\n")
    shown = call("registry show registry/films").splitlines()
    assert shown[0].split()[:2] == ["1", "serves"]
    assert shown[-2].endswith("rollback 1 (before: 2): worse")
    assert shown[-1] == "next: ss4rec serve --registry registry/films"
