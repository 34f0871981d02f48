"""`ss4rec compare` and `ss4rec show` on runs that were trained and evaluated in this process."""

from tests.cli.harness import Case, parametrised


def _compared(seen):
    assert seen.json["setting"] == {"seen": "excluded", "target_time": "unknown"}
    assert [row["metric"] for row in seen.json["rows"]] == ["HR@5", "MRR@20"]
    assert (seen.folder / "there.html").is_file()


def _in_words(seen):
    assert "No difference between run and other that could not be luck" in seen.out.replace("\n", " ")
    assert (seen.folder / "comparison.html").is_file()


def _shown(seen):
    assert "NDCG@10 by segment" in seen.out
    assert "page:" in seen.out


def _listed(seen):
    """Both runs were trained and tested; they begin in the same second, so their order is not looked at."""
    head, *rows = seen.out.splitlines()[:3]
    assert head.split()[:3] == ["run", "data", "epochs"]
    assert sorted(row.split()[:3] for row in rows) == [["other", "synth", "1"], ["run", "synth", "1"]]
    assert all(0 < float(row.split()[3]) < 1 for row in rows)
    assert max(map(len, (head, *rows))) <= 80
    assert "next: ss4rec " in seen.out


def _listed_as_json(seen):
    assert sorted(run["name"] for run in seen.json["runs"]) == ["other", "run"]
    assert {run["data"] for run in seen.json["runs"]} == {"synth"}


CASES = (
    Case(
        "compare {run} {other} --evaluation test --metric HR@5 --metric MRR@20 --seen excluded --target-time unknown "
        "--all-pairs --out {folder}/there.html --json",
        _compared,
    ),
    Case("compare {run} {other}", _in_words),
    Case("compare {run} {run}", lambda seen: seen.err.index("a run is given twice"), 2),
    Case("compare {run} {folder}", lambda seen: seen.err.index("is not a run folder"), 2),
    Case("show {run}", _shown),
    Case("show {run} --evaluation test --json", lambda seen: seen.json["results"]["model"]),
    Case("show {run} --metric HR@10", lambda seen: seen.out.index("HR@10")),
    Case("show {run} --metric ABC@10 --json", lambda seen: "ABC" in seen.err, 2),
    Case("show {run}/..", _listed),
    Case("show {run}/.. --json", _listed_as_json),
    Case("show", lambda seen: seen.err.index("runs is not a run folder"), 2),
    Case("show {run} --evaluation valid", lambda seen: seen.err.index("it has test"), 2),
)


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
