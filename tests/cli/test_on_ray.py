"""Verbs on a Ray, for real, one after another: from ratings to a drift report. tests/test_end_to_end.py has jobs."""

import json
import re

import pytest
import ray

from ss4rec.cli import main_group, run
from tests.progress import started

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    options = {"num_cpus": 4, "include_dashboard": True, "logging_level": "WARNING", "log_to_driver": False}
    started(lambda: ray.init(address="local", **options))
    yield
    ray.shutdown()


def call(capsys, *words):
    """Run a verb and return its exit code and what it wrote to stdout."""
    with pytest.raises(SystemExit) as ended:
        run(main_group, [str(word) for word in words])
    said = capsys.readouterr()
    print(said.out, said.err)
    return ended.value.code, said.out


def test_the_whole_path_in_one_command_and_once_more(tmp_path, capsys):
    """Ratings as CSV to a drift report; the same command again does nothing twice."""
    words = ["demo", "--like", "ml-32m", "--users", 600, "--items", 400, "--preset", "debug"]
    words += [
        "--set",
        "tracking.wandb=disabled",
        "--set",
        "train.epochs=1",
        "--set",
        "train.validate_every=1",
    ]
    words += ["--data", tmp_path / "ratings", "--storage", tmp_path / "runs"]
    code, out = call(capsys, *words)
    folder = tmp_path / "runs" / "ml-32m"
    assert code == 0
    assert re.findall(r"^(\w+) +[\d.,]+ s$", out, re.M) == [
        *("generate", "prepare", "cut", "train", "rank", "recommend", "drift")
    ]
    lists = json.loads((folder / "lists" / "manifest.json").read_text())
    assert lists["users"] == 600
    assert (folder / "drift" / "report.html").is_file()
    code, again = call(capsys, *words)
    assert code == 0
    assert again.count("done before") == 7
