"""docs/clusters.md: every command is one that exists, and every block says which test runs it or that none does."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from ss4rec.cli import main_group

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clusters.md").read_text()
SECTIONS = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands_of(block):
    """Return a block's commands, those over several lines in one."""
    return [line.split("   #")[0].strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]


LINES = [line for block in BLOCK.findall(PAGE) for line in commands_of(block)]
OURS = sorted({found[0] for line in LINES if (found := re.search(r"(?:^|(?<='))ss4rec [^']*", line))})


def blocks():
    """Yield each block's title, the text between it and the block or heading before, and its commands."""
    for section in SECTIONS:
        parts = re.split(r"```bash\n(.*?)```", section, flags=re.DOTALL)
        for text, block in zip(parts[::2], parts[1::2], strict=False):
            commands = commands_of(block)
            yield pytest.param(text, commands, id=f"{section.splitlines()[0]}: {commands[0]}")


@pytest.mark.parametrize(("text", "commands"), blocks())
def test_every_block_was_run_by_a_test_or_says_that_it_was_not(text, commands):
    """The text right before a block says which; a test that it names has each word and option of the commands.

    Seen to fail: with `--gpu` in a block that is run, without a mark, and with the name of another test.
    """
    marks = [*re.finditer(r"\b[Rr]un by\b|\b[Nn]ot\s+run\b", text)]
    assert marks, "neither `Run by` a test nor `Not run`"
    if marks[-1][0].lower().startswith("not"):
        return
    named = re.findall(r"`(tests/[\w/]+\.py)`", text[marks[-1].end() :])
    assert named
    tests = "\n".join((ROOT / name).read_text() for name in named)
    missing = {
        word
        for line in commands
        for word in words_of(line)
        if not re.search(rf'["\'/ .]{word}(?:_command|["\'=: ])', tests)
    }
    assert not missing


def words_of(line):
    """Return what a test has to say to have run a command: its verbs and options, or the variable that is set."""
    first, *words = shlex.split(line.replace("$", ""))
    if first == "export":
        return [word.partition("=")[0] for word in words]
    if first == "source":
        return []
    verbs = [word for word in takewhile(lambda word: word[0] != "-", words) if word.isalpha()]
    script = [] if first == "ss4rec" else [Path(first).name]
    return script + verbs + [word for word in words if re.fullmatch("--[a-z-]+", word)]


def test_the_tests_that_it_names_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_files_that_it_names_exist():
    named = set(re.findall(r"(?<!/)\b((?:cluster|tools)/[\w/.-]+\.(?:sh|yaml|sbatch|json|py))\b", PAGE))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("line", OURS)
def test_every_command_can_be_parsed(line):
    """Seen to fail: with `--worker 2` in the page."""
    command, words = main_group, shlex.split(line.replace("$", ""))[1:]
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None
    if command.name == "submit":
        job = command.make_context("submit", words).params
        command, words = main_group.get_command(click.Context(main_group), job["verb"]), list(job["options"])
    command.make_context(command.name, words)
