"""`ss4rec evaluate` on a run that was trained in this process; the cluster is left out."""

from contextlib import nullcontext

import pytest

from tests.cli.harness import Case, parametrised, ranked

EVALUATE = {"stub": "ss4rec.evaluation.report.evaluate_run", "answer": {}}


def _asked(seen):
    ((run_dir, data), options) = seen.calls[0]
    assert (run_dir.name, data.path.name) == ("run", "small")
    protocol = options.pop("protocol")
    assert (protocol.name, protocol.cut) == ("time-to-split with cut=0.7", 0.7)
    assert options == {"split": "valid", "workers": 2, "use_gpu": True}
    assert seen.json == {}


def _said(seen):
    first, second = seen.out.splitlines()[-2:]
    assert first.startswith("next: ss4rec show /")
    assert second.startswith("      ss4rec recommend --run /")


CASES = (
    Case(
        "evaluate --run {run} --data {prepared} --split valid --workers 2 --gpu --address local "
        "--protocol time-to-split --set protocol.cut=0.7 --all --json",
        _asked,
        **EVALUATE,
    ),
    Case(
        "evaluate --run {run} --data {prepared}",
        _said,
        stub=EVALUATE["stub"],
        answer={"model": ranked().model_dump(mode="json")},
    ),
    Case("evaluate --run {folder} --data {prepared}", lambda seen: None, 2, **EVALUATE),
)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """These cases look at the options alone."""
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address: nullcontext())


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
