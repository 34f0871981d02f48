import json
import subprocess
import sys

import pytest

from ss4rec.cli import run
from ss4rec.cli.prepare import prepare_command
from ss4rec.data.prepared.manifest import Manifest


def call(*args):
    """Exit code of the command as the console script runs it."""
    with pytest.raises(SystemExit) as stop:
        run(prepare_command, [str(arg) for arg in args])
    return stop.value.code


@pytest.fixture
def source(tmp_path):
    rows = [f"{user},{item},{user * item}" for user in range(6) for item in range(6)]
    (tmp_path / "shop.csv").write_text("\n".join(["buyer,sku,when", *rows]) + "\n")
    return tmp_path / "shop.csv"


def test_json_is_one_object_with_the_manifest(source, tmp_path, capsys):
    out = tmp_path / "out"
    columns = "user=buyer,time=when"
    assert call("--source", source, "--out", out, "--columns", columns, "--name", "shop!", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == str(out)
    assert Manifest.model_validate(answer["manifest"]) == Manifest.load(out)
    assert answer["manifest"]["name"] == "shop!"


def test_summary(source, tmp_path, capsys):
    columns = "user=buyer,item=sku,time=when"
    assert call("--source", source, "--out", tmp_path / "[red]out", "--columns", columns, "--k-core", 6) == 0
    text = capsys.readouterr().out
    for part in ("shop (csv)", "36 of 36 rows", "1970-01-01", "0.00%", "median", "[red]out"):
        assert part in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--columns", "user:buyer"], "is not role=column"),
        (["--columns", "buyer=user"], "not buyer"),
        (["--k-core", "-1"], "-1 is not in the range"),
        (["--columns", "user=buyer,time=when", "--k-core", "7"], "none is left"),
        ([], "--columns user="),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(source, tmp_path, capsys, args, message):
    assert call("--source", source, "--out", tmp_path / "deep/out", *args) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_missing_name_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("--source", "ml-1m", "--out", "out") == 2
    assert capsys.readouterr().err == (
        "error: there is no data/ml-1m.zip; run `ss4rec data get ml-1m` or give a path\n"
    )


def test_importing_the_command_stays_light():
    code = "import sys, ss4rec.cli.prepare; print(sorted({'pyarrow', 'numpy', 'pydantic', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
