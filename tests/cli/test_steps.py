"""What a verb prints last: commands that can be copied, in few characters."""

import shlex

import pytest

from ss4rec.cli.steps import quoted, say_sentences, wrapped
from ss4rec.train.status import shown


def test_a_path_is_told_from_here_on(tmp_path, monkeypatch):
    """Seen to fail: without the separator, with `here-too`."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert shown(here / "runs/sweep/report.html") == "runs/sweep/report.html"
    assert shown(here / "sub/here") == "sub/here"
    assert shown(here) == str(here)
    assert shown(tmp_path / "here-too") == str(tmp_path / "here-too")
    assert shown("runs/x") == "runs/x"
    assert shown("s3://bucket/x") == "s3://bucket/x"


@pytest.mark.parametrize("name", ["run", "two words", "it's"])
def test_a_shell_reads_the_path_back(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(quoted(tmp_path / name)) == [name]


LONG = "error: " + "a word and another " * 5 + "/a/path/" + "of-many-characters/" * 5


def test_lines_break_between_words_and_a_long_word_stays_whole():
    """Seen to fail: with `break_on_hyphens`, which cuts the path."""
    short = "  kept as it is"
    lines = wrapped(f"{short}\n{LONG}", 80).split("\n")
    assert lines[0] == short
    assert " ".join(lines[1:]) == LONG
    assert max(map(len, lines[1:-1])) <= 80
    assert lines[-1] == LONG.split()[-1]


def test_a_program_gets_a_sentence_as_one_line(capsys):
    say_sentences(LONG, err=True)
    assert capsys.readouterr() == ("", LONG + "\n")
