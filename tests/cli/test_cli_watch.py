"""`ss4rec watch`: from a file to a round of the loop."""

from dataclasses import replace
from pathlib import Path

import pytest

from ss4rec.loop.watch import Round
from tests.cli.harness import Case, parametrised

LOOK = Round("look", "A fault.", "", False, 3, "abc", "/w/index.html", False, 10)
KEPT = Round("retrain", "It fell.", "It was not better.", False, 3, "abc", "/w/index.html", True, 12)


def _called(seen):
    ((config,), options) = seen.calls[0]
    assert config.model.endswith("registry/films")
    assert options == {"address": "h:1", "clear": "mended"}
    assert seen.json["action"] == "look"


def _said(seen):
    assert seen.out.splitlines() == [
        "these data were looked at already, nothing was done; the last decision:",
        "retrain: It fell.",
        "It was not better.",
        "version 3 serves; page: /w/index.html",
        "next: ss4rec registry show registry/films",
    ]


def _fault(seen):
    told = "next: ss4rec watch --config watch.toml --clear REASON  # when the page's faults are mended"
    assert seen.out.splitlines()[-1] == told


def _none_serves(seen):
    assert seen.out.splitlines()[-1] == "next: ss4rec watch --config watch.toml  # when the data are newer"


CASES = (
    Case(
        "watch --config {folder}/watch.toml --clear mended --address h:1 --json",
        _called,
        10,
        stub="ss4rec.loop.watch.run_watch",
        answer=LOOK,
    ),
    Case("watch --config {folder}/watch.toml", _said, 12, stub="ss4rec.loop.watch.run_watch", answer=KEPT),
    Case("watch --config {folder}/watch.toml", _fault, 10, stub="ss4rec.loop.watch.run_watch", answer=LOOK),
    Case(
        "watch --config {folder}/watch.toml",
        _none_serves,
        11,
        stub="ss4rec.loop.watch.run_watch",
        answer=replace(LOOK, action="wait", champion=None, exit_code=11),
    ),
    Case("watch --config {folder}/none.toml", lambda seen: seen.err.index("cannot be read as TOML"), 2),
)


@pytest.fixture(autouse=True)
def watch_file(tmp_path: Path):
    (tmp_path / "watch.toml").write_text('model = "registry/films"\ndata = "d"\nwork = "w"\n')


@parametrised(CASES)
def test_watch(case, perform):
    perform(case)
