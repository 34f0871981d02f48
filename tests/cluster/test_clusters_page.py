"""docs/clusters.md: every command is one that exists, and every block says which test runs it or that none does."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ss4rec.cli import main_group

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clusters.md").read_text()
SECTIONS = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
LINES = [line.split("   #")[0].strip() for block in BLOCK.findall(PAGE) for line in block.splitlines()]
OURS = sorted({found[0] for line in LINES if (found := re.search(r"(?:^|(?<='))ss4rec [^']*", line))})


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.splitlines()[0])
def test_every_block_says_whether_it_was_run(section):
    text = ""
    for part in re.split(r"(```bash\n.*?```)", section, flags=re.DOTALL):
        if part.startswith("```"):
            assert re.search(r"[Rr]un by|[Nn]ot run|not run on", text), part
        else:
            text += part


def test_the_tests_that_it_names_exist():
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_files_that_it_names_exist():
    named = set(re.findall(r"(?<!/)\b((?:cluster|scripts)/[\w/.-]+\.(?:sh|yaml|sbatch|json|py))\b", PAGE))
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
