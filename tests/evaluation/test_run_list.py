"""The list of runs: what is no run is left out, and a run that has only begun has a line too."""

from ss4rec.evaluation.run_list import RunLine, list_runs


def test_runs_that_have_only_begun_and_what_is_no_run(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_text("{}")
    (tmp_path / "begun/metrics.jsonl").write_text(
        '{"kind": "epoch", "epoch": 1, "global_step": 4, "valid_ndcg@10": 0.2}\n'
        '{"kind": "epoch", "epoch": 2, "global_step": 8, "valid_ndcg@10": 0.1}\n{"kind": "ep'
    )
    assert list_runs(tmp_path) == [RunLine("begun", None, None, 2, 0.2, None)]
