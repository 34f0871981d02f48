"""A round of the loop: what it does, that it does it once, and that kill -9 loses and doubles nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from drift.report.contents import Report
from ss4rec.errors import ConfigError, ContractError, LeaseError, UsageError
from ss4rec.io.journal import exclusive
from ss4rec.loop.journal import LoopJournal
from ss4rec.loop.settings import WatchConfig
from ss4rec.loop.steps import Place, _report
from ss4rec.loop.watch import LOCK, run_watch
from ss4rec.registry import ModelRegistry, champion
from tests.killed import killed_at
from tests.loop.conftest import Quick, grow, write_report
from tests.test_golden_folders import GOLDEN


def registered(config):
    registry = ModelRegistry(Path(config.model))
    registry.promote(registry.add(GOLDEN / "run").version, "the first")
    return registry


def steps(config):
    return [row["step"] for row in LoopJournal(Path(config.work)).rows()]


def test_the_first_model_is_trained_and_serves(loop):
    config, quick = loop(), Quick()
    found = run_watch(config, work=quick.work())
    assert (found.action, found.promoted, found.champion, found.exit_code) == ("retrain", True, 1, 0)
    assert quick.done == ["look", "train cold"]
    assert steps(config) == ["look", "decide", "train", "promote", "tell"]
    assert champion(Path(config.model)).name == "0001"


def test_the_same_data_are_looked_at_once(loop):
    config = loop()
    registered(config)
    quick = Quick(model_fall="drift")
    first = run_watch(config, work=quick.work())
    assert (first.action, first.promoted, first.champion, first.exit_code) == ("retrain", True, 2, 0)
    assert quick.done == ["look", "train warm", "compare"]
    again = run_watch(config, work=quick.work())
    assert again.repeated
    assert quick.done == ["look", "train warm", "compare"]
    grow(config, 1)
    later = Quick(windows=4, model_fall="drift")
    held = run_watch(config, work=later.work())
    assert not held.repeated
    assert held.action == "retrain"
    assert [row["version"] for row in ModelRegistry(Path(config.model)).history()] == [1, 2, 3]


def test_a_challenger_that_is_not_better_leaves_the_champion_and_doubles_the_pause(loop):
    config = loop()
    registered(config)
    found = run_watch(config, work=Quick(better=False, model_fall="severe").work())
    assert (found.action, found.promoted, found.champion, found.exit_code) == ("retrain", False, 1, 12)
    assert "The champion stays" in found.outcome
    grow(config, 1)
    found = run_watch(config, work=Quick(windows=4, model_fall="severe").work())
    assert (found.action, found.exit_code) == ("wait", 11)
    assert "2 must pass" in found.reason


def test_a_fault_blocks_until_it_is_cleared(loop):
    config = loop()
    registered(config)
    quick = Quick(pipeline="severe", model_fall="severe")
    found = run_watch(config, work=quick.work())
    assert (found.action, found.exit_code, quick.done) == ("look", 10, ["look"])
    with pytest.raises(UsageError, match="no fault that somebody could clear"):
        run_watch(loop(work=config.work + "2"), clear="why not", work=quick.work())
    # A fault that the report dates within the windows that were looked at.
    import tests.loop.conftest as conftest

    dated = conftest.verdict("severe", since="w2")
    before = conftest.verdict
    conftest.verdict = lambda now="none", **_: dated if now == "severe" else before(now)
    try:
        cleared = run_watch(config, clear="the source was late, all is there now", work=quick.work())
    finally:
        conftest.verdict = before
    assert cleared.action == "retrain"
    assert "the source was late" in Path(cleared.page).read_text()


def test_plain_exit_codes_for_schedulers(loop):
    config = loop(tell={"exit_codes": "plain"})
    registered(config)
    assert run_watch(config, work=Quick(pipeline="severe").work()).exit_code == 0


def test_page_and_gauges_say_what_was_decided(loop):
    config = loop()
    registered(config)
    found = run_watch(config, work=Quick(model_fall="drift").work())
    page = Path(found.page).read_text()
    for words in (
        "Retrain: It is drift.",
        "version 2 serves",
        "The challenger is better.",
        "Does the model rank worse?",
    ):
        assert words in page
    assert 'href="cycles/' in page
    gauges = (Path(config.work) / "metrics.prom").read_text()
    for line in (
        'ss4rec_watch_action{model="films"} 3',
        'ss4rec_watch_champion_version{model="films"} 2',
        'ss4rec_watch_trainings_total{model="films"} 1',
        'ss4rec_watch_training_seconds_total{model="films"} 2.5',
        'ss4rec_watch_verdict{model="films",question="model_fall"} 3',
        'ss4rec_watch_hit_rate_at_10{model="films"} 0.25',
    ):
        assert line in gauges.splitlines()
    names = {line.split()[2] for line in gauges.splitlines() if line.startswith("# TYPE")}
    values = {line.split("{")[0] for line in gauges.splitlines() if not line.startswith("#")}
    assert names == values


@pytest.fixture
def receiver(monkeypatch):
    """Record what is posted, and answer as the test wants."""
    import requests

    calls, answers = [], []

    class Answer:
        def __init__(self, status_code):
            self.status_code, self.ok = status_code, status_code < 400

    def post(address, **options):
        calls.append((address, options))
        answer = answers.pop(0) if answers else 200
        if answer == 0:
            raise requests.ConnectionError("https://secret-address")
        return Answer(answer)

    monkeypatch.setattr(requests, "post", post)
    monkeypatch.setattr("ss4rec.loop.tell.PAUSE_S", 0)
    return calls, answers


def test_a_webhook_gets_one_message_with_a_key(loop, receiver, monkeypatch, capsys):
    calls, answers = receiver
    monkeypatch.setenv("ALERT_URL", "https://hooks.example.org/1")
    config = loop(tell={"webhook": "$ALERT_URL"})
    registered(config)
    answers.extend([0, 503, 200])
    found = run_watch(config, work=Quick(pipeline="severe").work())
    assert len(calls) == 3
    address, options = calls[-1]
    assert (address, options["headers"]) == ("https://hooks.example.org/1", {"Idempotency-Key": found.cycle})
    assert options["json"]["action"] == "look"
    assert options["json"]["text"].startswith("films: look. It is severe.")
    run_watch(config, work=Quick(pipeline="severe").work())
    assert len(calls) == 3, "the same data, nothing again"
    grow(config, 1)
    run_watch(config, work=Quick(windows=4).work())
    assert len(calls) == 3, "nothing to tell"
    grow(config, 2)
    answers.extend([0, 0, 0])
    run_watch(config, work=Quick(windows=5, pipeline="severe").work())
    said = capsys.readouterr().out
    assert "warning: webhook failed: ConnectionError" in said
    assert "secret-address" not in said
    run_watch(config, work=Quick(windows=5, pipeline="severe").work())
    assert calls[-1][1]["json"]["action"] == "look", "what could not be sent is sent by the next round"
    assert len(calls) == 7
    run_watch(config, work=Quick(windows=5, pipeline="severe").work())
    assert len(calls) == 7
    monkeypatch.delenv("ALERT_URL")
    with pytest.raises(ConfigError, match="ALERT_URL is not set"):
        run_watch(config, work=Quick(windows=6, pipeline="severe").work())


def test_one_loop_at_a_time(loop):
    config = loop()
    with (
        exclusive(Path(config.work) / LOCK, "it"),
        pytest.raises(LeaseError, match="another process works on the loop"),
    ):
        run_watch(config, work=Quick().work())


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_point_nothing_is_lost_or_doubled(part, loop, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what kill -9 loses is not on its way to the disk
    config = loop()
    registered(config)
    killed, whole = 0, 0
    for step in range(1 + part, 2000, 12):
        for name in ("registry", "watch"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        registered(config)
        quick = Quick(model_fall="drift")
        if not killed_at(step, lambda quick=quick: run_watch(config, work=quick.work())):
            whole += 1
            break
        killed += 1
        assert champion(Path(config.model)).name in ("0001", "0002"), "something serves all the time"
        found = run_watch(config, work=quick.work())
        assert (found.action, found.champion) == ("retrain", 2)
        assert steps(config) == ["look", "decide", "train", "compare", "promote", "tell"]
        history = ModelRegistry(Path(config.model)).history()
        assert [(row["action"], row["version"]) for row in history] == [("promote", 1), ("promote", 2)]
        again = run_watch(config, work=quick.work())
        assert (again.repeated, again.champion) == (True, 2)
    assert killed > 5
    assert whole == 1


def test_a_report_that_cannot_be_added_to_is_made_anew(loop, tmp_path, monkeypatch, capsys):
    config, calls = loop(), []

    def run_drift(parts, run, out, look, *, since_last=False, address=None):
        calls.append((since_last, sorted(path.name for path in out.iterdir())))
        if since_last:
            raise ContractError("the report in it has another configuration")
        write_report(out, ["w1"])
        return Report.load(out), 0

    monkeypatch.setattr("drift.job.run_drift", run_drift)
    write_report(tmp_path / "earlier", ["w1"])
    place = Place(config, tmp_path / "cycle", None)
    assert _report(place, GOLDEN / "run", tmp_path, tmp_path / "earlier").last_window == "w1"
    assert calls == [(True, ["report.json"]), (False, [])]
    assert "all windows are looked at again, since the report in it has another" in capsys.readouterr().out
    assert _report(place, GOLDEN / "run", tmp_path, None).last_window == "w1"
    assert len(calls) == 2, "a report that is there is read"


def test_drafts_of_a_killed_round_go(loop):
    config = loop()
    registered(config)
    first = run_watch(config, work=Quick().work())
    cycle = Path(config.work) / "cycles" / first.cycle
    (cycle / ".report-x" / "new").mkdir(parents=True)
    (cycle / "looked").mkdir()
    grow(config, 1)
    run_watch(config, work=Quick(windows=4).work())
    assert [path.name for path in cycle.iterdir()] == ["report"]


def test_the_file_of_the_guide_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()
    (tmp_path / "watch.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    config = WatchConfig.load(tmp_path / "watch.toml")
    assert (config.decide.budget, config.compare.gate_windows, config.tell.webhook) == (6, 1, "$ALERT_URL")


def test_the_file(tmp_path):
    path = tmp_path / "watch.toml"
    path.write_text('model = "registry/films"\ndata = "data/films"\nwork = "/abs/watch"\n[look]\nwindow = "month"\n'
                    '[train]\nset = {"train.epochs" = 3}\n')  # fmt: skip
    config = WatchConfig.load(path)
    assert config.model == str(tmp_path / "registry/films")
    assert (config.work, config.look.window, config.train.set) == ("/abs/watch", "month", {"train.epochs": 3})
    path.write_text('model = "m"\nwork = 3\n[decide]\nbudgett = 1\n')
    with pytest.raises(ConfigError) as refused:
        WatchConfig.load(path)
    assert all(words in str(refused.value) for words in ("data: ", "work: ", "decide.budgett: no such field"))
    path.write_text("model = ")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        WatchConfig.load(path)


def test_json_of_the_journal_is_plain(loop):
    config = loop()
    run_watch(config, work=Quick().work())
    for line in (Path(config.work) / "journal.jsonl").read_text().splitlines():
        assert json.loads(line)["at"].endswith("+00:00")
