"""What a verb prints last: commands that can be copied, in few characters."""

import shlex

import pytest

from ss4rec.cli.steps import quoted, shown


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
