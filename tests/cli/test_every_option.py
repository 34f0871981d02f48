"""No verb and no option without a test of its command line."""

import importlib
from pathlib import Path

import pytest

from tests.cli.harness import Case, commands, given, says_next

CASES = [
    case
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    for case in getattr(importlib.import_module(f"tests.cli.{path.stem}"), "CASES", ())
    if path.stem != Path(__file__).stem
]
COMMANDS = dict(commands())


@pytest.mark.parametrize("verb", COMMANDS)
def test_some_case_gives_each_option(verb):
    tested: set[str] = set()
    for case in CASES:
        name, options = given(case.args)
        if name == verb:
            tested |= options
    wanted = {parameter.name for parameter in COMMANDS[verb].params if parameter.name != "help"}
    assert wanted - tested == set(), f"no case of tests/cli gives these of `ss4rec {verb}`"


@pytest.mark.parametrize("verb", COMMANDS)
def test_some_case_ends_by_saying_what_to_do_next(verb):
    """`perform` fails for such a case that has no such line."""
    assert any(given(case.args)[0] == verb for case in CASES if says_next(case))


@pytest.mark.parametrize("verb", COMMANDS)
def test_each_verb_has_help_that_fits_80_columns(verb, capsys, monkeypatch):
    from ss4rec.cli import main_group, run

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        run(main_group, [*verb.split(), "--help"])
    text = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert text.startswith("Usage:")
    assert max(map(len, text.splitlines())) <= 80


def test_the_version(capsys):
    from ss4rec.cli import main_group, run

    with pytest.raises(SystemExit) as ended:
        run(main_group, ["--version"])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("ss4rec ")


@pytest.mark.parametrize("group", [[], ["data"]])
def test_the_list_of_verbs_is_whole(group, capsys, monkeypatch):
    """No description is cut."""
    from ss4rec.cli import main_group, run

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(main_group, [*group, "--help"])
    text = capsys.readouterr().out
    assert "..." not in text.partition("Commands")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_help_names_every_preset(capsys):
    from ss4rec.cli import main_group, run
    from ss4rec.presets import PRESETS

    with pytest.raises(SystemExit):
        run(main_group, ["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert [name for name in PRESETS if name not in text] == []


def test_a_missing_option_would_be_seen():
    assert given("train --data x --json") == ("train", {"data", "as_json"})
    assert isinstance(CASES[0], Case)
