"""`ss4rec demo --like ml-32m`: stages that are kept, in any order of kills; tests/cli/test_on_ray.py runs real ones."""

from contextlib import nullcontext

import pytest

from ss4rec.cli import pipeline
from ss4rec.cli.pipeline import JOURNAL_FILE, Settings, done_stages, run_pipeline, stages
from ss4rec.errors import LeaseError, SS4RecError, UsageError
from ss4rec.io.journal import Journal

NAMES = ["generate", "prepare", "cut", "train", "rank", "recommend", "drift"]
ASKED = Settings(like="ml-32m", users=300, items=200, preset="debug")


@pytest.fixture
def verbs(tmp_path, monkeypatch):
    """Verbs that only make what tells that they are done; returns the list of those that ran, and a set that fail."""
    ran, fail = [], {}
    makes = {stage.words: stage for stage in stages(ASKED, tmp_path / "data", tmp_path / "out", 0, 2)}

    def call(words):
        stage = makes[tuple(words)]
        ran.append(stage.name)
        if stage.name in fail:
            raise fail.pop(stage.name)
        if stage.makes is not None:
            stage.makes.parent.mkdir(parents=True, exist_ok=True)
            stage.makes.write_text("")
        return 0

    monkeypatch.setattr(pipeline, "call_verb", call)
    monkeypatch.setattr("ss4rec.cluster.connect.cluster", lambda address: nullcontext())
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    return ran, fail


def go(tmp_path, asked=ASKED, **options):
    return run_pipeline(asked, tmp_path / "data", tmp_path / "out", say=lambda line: None, **options)


@pytest.mark.parametrize("killed", NAMES)
def test_a_killed_pipeline_goes_on_with_the_stage_that_it_was_in(tmp_path, verbs, killed):
    """Seen to fail: with the journal's line "done" written before the verb."""
    ran, fail = verbs
    fail[killed] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    done = go(tmp_path)
    at = NAMES.index(killed)
    assert ran == [*NAMES[: at + 1], *NAMES[at:]]
    assert [one.name for one in done] == NAMES
    assert [one.attempts for one in done] == [1 + (name == killed) for name in NAMES]
    del ran[:]
    go(tmp_path)
    assert ran == []


def test_killed_between_a_stage_and_its_line(tmp_path, verbs):
    """What a stage makes appears whole, so it is not made again, which verbs would refuse.

    Seen to fail: without the second look at `makes`.
    """
    ran, _ = verbs
    (tmp_path / "out" / "prepared").mkdir(parents=True)
    (tmp_path / "out" / "prepared" / "manifest.json").write_text("")
    done = {one.name: one.seconds for one in go(tmp_path)}
    assert "prepare" not in ran
    assert done["prepare"] is None
    assert done["cut"] is not None


def test_a_stage_whose_result_was_removed_runs_again(tmp_path, verbs):
    ran, _ = verbs
    go(tmp_path)
    (tmp_path / "out" / "lists" / "manifest.json").unlink()
    del ran[:]
    go(tmp_path)
    assert ran == ["recommend"]


def test_other_settings_are_refused(tmp_path, verbs):
    go(tmp_path)
    with pytest.raises(UsageError, match=r"cutoff '2018-12-31', now '2015-01-01'"):
        go(tmp_path, Settings(like="ml-32m", users=300, items=200, preset="debug", cutoff="2015-01-01"))


def test_a_second_process_is_refused(tmp_path, verbs):
    with (
        pipeline.exclusive(tmp_path / "out" / pipeline.LOCK_FILE, "it"),
        pytest.raises(LeaseError, match="another process"),
    ):
        go(tmp_path)


def test_a_verb_that_ends_with_a_code_is_not_done(tmp_path, verbs, monkeypatch):
    monkeypatch.setattr(pipeline, "call_verb", lambda words: 3)
    with pytest.raises(SS4RecError, match=r"data synth .* ended with 3"):
        go(tmp_path)
    assert done_stages(Journal(tmp_path / "out" / JOURNAL_FILE)) == []


def test_a_source_takes_the_place_of_generated_ratings(tmp_path):
    asked = Settings(like="ml-32m", source="ml-32m.zip", train=("--set", "train.epochs=3"))
    found = {stage.name: stage.words for stage in stages(asked, tmp_path / "data", tmp_path, gpus=1, cpus=16)}
    assert list(found) == NAMES[1:]
    assert found["prepare"][3] == "ml-32m.zip"
    assert found["train"].index("train.epochs=3") > found["train"].index("train.epochs=10")
    assert "--gpu" in found["rank"]
    assert "--gpu" in found["recommend"]


def test_each_verb_takes_its_words(tmp_path):
    """No option is misspelt: the command line parses them, and nothing runs."""
    from ss4rec.cli import main_group

    for stage in stages(ASKED, tmp_path / "data", tmp_path / "out", gpus=1, cpus=16):
        command, words = main_group, list(stage.words)
        while hasattr(command, "list_commands"):
            command = command.get_command(None, words.pop(0))
        command.make_context(stage.name, words)


def test_a_verb_is_called_in_this_process(tmp_path, capsys):
    words = ["data", "synth", "--out", str(tmp_path / "made"), "--users", "30", "--items", "200"]
    assert pipeline.call_verb([*words, "--format", "csv"]) == 0
    assert (tmp_path / "made" / "truth.json").is_file()
    with pytest.raises(UsageError):
        pipeline.call_verb(["data", "split", "--data", str(tmp_path), "--out", str(tmp_path / "x")])
