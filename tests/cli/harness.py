"""Runs a verb as a shell would: the console script's own entry, its exit code, what it prints.

Each file `test_cli_VERB.py` here has a table `CASES`; `test_every_option.py` reads them all and fails for an option
of any verb that no case gives.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest

from ss4rec.cli import main_group, run
from ss4rec.evaluation.evaluator import SETTINGS, EvalResult, SettingResult


@dataclass
class Seen:
    """What a call did."""

    code: int
    out: str
    err: str
    folder: Path
    """Empty before the call; `{folder}` in its arguments."""
    calls: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)
    """Arguments of the function that `Case.stub` replaced."""

    @property
    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Case:
    """One call of a verb and what must come of it."""

    args: str
    """As one types them behind `ss4rec`; `{folder}` and the names of `places` are filled in."""
    check: Callable[[Seen], None]
    code: int = 0
    stub: str = ""
    """`module.function` that is replaced, where only the plumbing is looked at: what needs Ray, or a network."""
    answer: Any = None
    """What the replaced function returns."""

    def __str__(self) -> str:
        return self.args


def ranked() -> EvalResult:
    """Return metrics of three users, .25 each."""
    return EvalResult(
        num_users=3,
        settings=tuple(
            SettingResult(
                seen=seen,
                target_time=time,
                metrics={f"{name}@{k}": 0.25 for name in ("HR", "NDCG", "MRR") for k in (5, 10, 20)},
                intervals={},
            )
            for seen, time in SETTINGS
        ),
    )


def parametrised(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    """Return the mark that makes one test of each case."""
    return pytest.mark.parametrize("case", cases, ids=str)


def perform(case: Case, places: Mapping[str, Path], folder: Path, monkeypatch, capsys) -> Seen:
    """Run a case in `folder` and check it."""
    calls: list[tuple[tuple, dict[str, Any]]] = []

    def stub(*args, **options):
        calls.append((args, options))
        return case.answer

    if case.stub:
        monkeypatch.setattr(case.stub, stub)
    monkeypatch.chdir(folder)
    arguments = shlex.split(case.args.format(folder=folder, **places))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(main_group, arguments)
    out, err = capsys.readouterr()
    seen = Seen(ended.value.code, out, err, folder, calls)
    assert seen.code == case.code, out + err
    if says_next(case):
        assert "next: " in out + err, f"`ss4rec {case.args}` does not say what one may do next"
    case.check(seen)
    return seen


def says_next(case: Case) -> bool:
    """Return whether the call must end by saying what to do next: it did its work, and people read what it prints."""
    return case.code in (0, 10, 11, 12) and "as_json" not in given(case.args)[1]


def commands(group: click.Group = main_group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every verb with its command, those of `data` as `data VERB`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def given(args: str) -> tuple[str, set[str]]:
    """Return the verb of a command line and the names of the parameters that it gives."""
    command: click.Command = main_group
    words, verb = shlex.split(args), []
    while isinstance(command, click.Group):
        verb.append(words.pop(0))
        command = command.get_command(click.Context(main_group), verb[-1])
    values, _, _ = command.make_parser(click.Context(command)).parse_args(words)
    return " ".join(verb), {name for name, value in values.items() if value not in (None, ())}
