"""`ss4rec drift`: options become a configuration; tests/cli/test_on_ray.py writes a report."""

from types import SimpleNamespace

from tests.cli.harness import Case, parametrised

DRIFT = {
    "stub": "drift.job.run_drift",
    "answer": (SimpleNamespace(headline="all is well", verdict="none"), 0),
}


def _everything(seen):
    ((data, run_dir, out, config), options) = seen.calls[0]
    assert (data.name, run_dir.name, out) == ("split", "run", seen.folder / "report")
    assert (config.window, config.permutations, config.workers) == ("month", 199, 1)
    assert [path.name for path in options["retrained"]] == ["run"]
    assert [event.name for event in options["events"]] == ["sale"]
    assert (options["since_last"], options["address"]) == (True, "local")
    assert seen.json["headline"] == "all is well"


CASES = (
    Case(
        "drift --data {split} --run {run} --out {folder}/report --set window=month --set permutations=199 "
        "--set workers=1 --retrained {run} --events {events} --since-last --address local --json",
        _everything,
        **DRIFT,
    ),
    Case("drift --data {split} --out report", lambda seen: _has(seen.out, "all is well"), **DRIFT),
    Case(
        "drift --data {split} --out report --set permutation=199",
        lambda seen: _has(seen.err, 'permutation: no such field; did you mean "permutations"?'),
        2,
    ),
    Case(
        "drift --data {split} --out report --set window",
        lambda seen: _has(seen.err, "write --set FIELD=VALUE, as in window=year"),
        2,
    ),
    Case("drift --data {split} --out report --set zzz=1", lambda seen: _has(seen.err, "fields: window, "), 2),
    Case(
        "drift --data {split} --out report --set window=decade",
        lambda seen: _has(seen.err, "drift configuration refused:\n  window: "),
        2,
    ),
)


def _has(text, words):
    assert words in text


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
