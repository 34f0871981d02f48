"""Files that a newcomer reads first say what is there: the picture, the licence, the workflow, the sentences."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TO_BORDER = 6
"""Pixels between the end of an arrow and the box that it means."""


def corners(path):
    """Return the first and the last point of a path of M, H and V."""
    points = []
    for letter, numbers in re.findall(r"([MHV])([\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        x, y = points[-1] if points else (0.0, 0.0)
        points.append({"M": tuple(values), "H": (values[0], y), "V": (x, values[0])}[letter])
    return points[0], points[-1]


def touches(point, box):
    """Return whether a point lies at the border of a box (x, y, width, height)."""
    x, y, width, height = box
    dx, dy = point[0] - x, point[1] - y
    near = min(abs(dx), abs(dx - width), abs(dy), abs(dy - height)) <= TO_BORDER
    return near and -TO_BORDER <= dx <= width + TO_BORDER and -TO_BORDER <= dy <= height + TO_BORDER


def test_every_arrow_of_the_picture_goes_from_box_to_box():
    """One began beside its box, tuning was "not built yet", and cluster/ hung free."""
    tree = ElementTree.parse(ROOT / "docs/system.svg").getroot()
    parts = [(element.tag.rpartition("}")[2], element.attrib, element.text or "") for element in tree.iter()]
    boxes = [
        tuple(float(found[name]) for name in ("x", "y", "width", "height"))
        for tag, found, _ in parts
        if tag == "rect" and "x" in found
    ]
    arrows = [found["d"] for tag, found, _ in parts if tag == "path" and found.get("class") in ("a", "d")]
    assert len(arrows) > 5
    for arrow in arrows:
        for point in corners(arrow):
            assert any(touches(point, box) for box in boxes), f"{arrow}: nothing at {point}"
    text = " ".join(words for tag, _, words in parts if tag == "text")
    assert "not built" not in text
    assert "cluster/" in text


def test_licence_citation_and_metadata_agree():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["references"][0]["notes"] == "arXiv:2502.08132"
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert not [line for line in PROJECT["dependencies"] if "alibi" in line], "no production use: an extra"


def test_the_workflow_runs_what_we_run_and_hooks_use_the_environment():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}


OLD = (
    "that lets real time pass between events",
    "Any GroupLens archive",
    "answers in two lines",
    "is at the rim",
    "it trains on what there is while nodes come and go",
    "Every way ends in the same commands",
    "One memory",
    "Least events of users",
    "Users a shard",
    "Most trials at a time",
    "harm that is there from the first day",
)
"""Sentences that a newcomer stumbled over; each has a better one now."""


@pytest.mark.parametrize("words", OLD)
def test_sentences_that_nobody_understood_are_gone(words):
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    code = [path for folder in ("ss4rec", "tuning", "drift") for path in (ROOT / folder).rglob("*.py")]
    assert [
        path for path in (*pages, *code) if words in path.read_text() and path.name != "first-hour.md"
    ] == []


def test_the_example_without_ray_is_short():
    lines = (ROOT / "examples/train.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 70
    assert not [line for line in lines if "import ray" in line or "from ray" in line]


def test_every_row_of_the_first_hour_names_tests_that_exist():
    page = (ROOT / "docs/first-hour.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| # ")]
    assert [row.split("|")[1].strip() for row in rows] == [*(str(n) for n in range(1, 26)), "", ""]
    for row in rows[:-1]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
