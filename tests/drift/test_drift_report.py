"""The page in a real browser, known events, and the summary that Weights & Biases gets."""

import sys
from datetime import date
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from benchmarks.drift.simulate import Plant, PlantedModel, simulate
from drift.calendar import calendar
from drift.cells.run import all_cells, run_cell
from drift.cells.types import CellContext
from drift.cells.volume import identical_rows, volume_rows
from drift.config import DriftConfig
from drift.events import SHIPPED, KnownEvent, event_records, read_events
from drift.model.followers import count_pairs
from drift.model.quality import Quality, summarise
from drift.model.rank import Baselines, RankTask, rank_shard
from drift.model.targets import TargetChoice
from drift.plan import Plan
from drift.report.assemble import assemble
from drift.report.contents import Report, write_tables
from drift.report.page import page
from drift.report.verdict import judge
from drift.report.wandb_summary import log_summary, window_figures
from drift.signals.histograms import HistogramMaker
from drift.signals.items import ItemCounts, read_item_facts, top_items, turnover
from drift.signals.past import PastCounts
from ss4rec.cli import run
from ss4rec.cli.drift import _events, drift_command
from ss4rec.config import DataConfig
from ss4rec.errors import ContractError, DataError, UsageError
from tests.browser import needs_browser, require_readable, require_self_contained

CONFIG = DriftConfig(permutations=199, bootstrap=20, min_users=40, wandb="disabled", alibi=())
EVENTS = [
    KnownEvent(date=date(2003, 2, 1), name="before"),
    KnownEvent(date=date(2011, 5, 2), name="<redesign> & more"),
]


def quality(made, plan):
    """Records of the planted model, with all baselines and a retrained line that stops halfway."""
    task = RankTask(
        TargetChoice(
            data=DataConfig(max_len=10, overlap=2),
            windows=made.windows,
            users=dict.fromkeys(plan.future, np.arange(made.shard.num_rows)),
            cut_s=plan.cut_s,
            vocabulary=120,
        ),
        seed=0,
        baselines=Baselines(
            np.arange(121),
            dict.fromkeys(plan.future, np.arange(121)),
            count_pairs(made.shard, 120, plan.cut_s),
        ),
    )
    ranks = rank_shard(PlantedModel(made), made.shard, task)
    names = [(window, made.windows[window].name) for window in plan.future]
    later = ranks.filter(pa.compute.less_equal(ranks["window"], plan.future[1]))
    records, compared = summarise(ranks, names, CONFIG, 120, later)
    plain = [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in records]
    return Quality(plain, compared)


@pytest.fixture(scope="module")
def made_report():
    """A report on four future quarters, whose transitions and ratings change in the third, and its layout."""
    plant = Plant(windows=9, users=80, items=120, step=7, rating=-0.6, concept=True)
    made = simulate(plant, 0)
    plan = Plan(made.windows, made.windows[5].start_s - 1, [3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2])
    counts = ItemCounts.of_shard(made.shard, made.windows, plant.items)
    facts = read_item_facts(made.items, plant.items, plant.items)
    past = PastCounts.of_shard(made.shard, made.windows[3].start_s, plant.items).tables()
    make = HistogramMaker(made.windows, list(range(9)), facts, counts, plan.year_before, past)
    context = CellContext(CONFIG, plan, make(made.shard), make.layout, counts=counts, facts=facts)
    rows = [row for cell in all_cells(plan, plan.future) for row in run_cell(context, cell)]
    rows += volume_rows(context) + identical_rows(context)
    judge(context, rows)
    return assemble(context, rows, quality(made, plan), counts, EVENTS), make.layout


def test_report_says_what_was_planted(made_report):
    report, layout = made_report
    stars = next(change for change in report.changes if change.name == "stars")
    assert (stars.first, stars.kind, stars.ongoing, stars.sudden) == ("2011Q4", "taste", True, True)
    assert "on average" in stars.sentence
    follows = next(change for change in report.changes if change.name == "what follows what")
    assert follows.first == "2011Q4"
    assert report.verdicts.model_fall.since == "2011Q4"
    assert report.verdicts.model_fall.action == "retrain"
    assert "The model ranks worse" in report.headline
    assert "retrain on newer data" in report.headline
    assert report.verdicts.pipeline.severity == "none"
    assert "2011Q4" in report.headline
    assert [window["turnover"] is not None for window in report.windows] == [True] * 4
    assert 0 <= report.past_turnover[0] <= report.past_turnover[1] <= 1
    assert [event["window"] for event in report.known_events] == [None, "2011Q2"]
    assert 0 < report.smallest_fall < 1
    assert set(report.distributions["rating"]) == {"reference", *(w["name"] for w in report.windows)}
    text = page(report, layout)
    assert "&lt;redesign&gt; &amp; more" in text
    assert "<redesign>" not in text
    gains = [record["retrained.gain"] for record in report.quality]
    assert gains == [0.0, 0.0, None, None]  # the same model on the same events
    require_self_contained(text)


def test_a_report_is_read_back(made_report, tmp_path):
    report, _ = made_report
    write_tables(report, [], tmp_path)
    assert Report.load(tmp_path) == report
    (tmp_path / "report.json").write_text('{"schema_version": 1}')
    with pytest.raises(DataError, match="version 1, this program reads 2"):
        Report.load(tmp_path)
    with pytest.raises(DataError, match="is no report"):
        Report.load(tmp_path / "none")


def test_a_model_that_popularity_beats_from_the_first_day_is_named(made_report):
    report, layout = made_report
    assert "no better than" not in page(report, layout)
    first = report.quality[0] | {"all.HR@10": 0.01, "pop_frozen.HR@10": 0.02, "pop_rolling.HR@10": 0.0}
    first["follow.HR@10"] = 0.0
    weak = report.model_copy(update={"quality": [first, *report.quality[1:]]})
    assert "no better than popularity at the cut." in page(weak, layout)


@needs_browser
def test_every_plot_is_drawn_and_readable(made_report, tmp_path):
    report, layout = made_report
    names = require_readable(page(report, layout), tmp_path)
    assert {"HR@10 by window", "Change of HR@10", "Regret", "Users", *(s.name for s in layout)} <= set(names)


def test_turnover_of_the_most_rated():
    counts_WV = np.array([[0, 9, 5, 0, 0], [0, 9, 0, 7, 0], [0, 0, 0, 0, 0]])
    assert top_items(counts_WV[0], 1).tolist() == [False, True, False, False, False]
    assert top_items(counts_WV[0], 9).tolist() == [False, True, True, False, False]
    assert turnover(counts_WV, 1, 4) == pytest.approx(1 - 1 / 3)
    assert turnover(counts_WV, 2, 4) is None
    assert turnover(counts_WV, 0, 4) is None


def test_known_events(tmp_path):
    shipped = read_events(SHIPPED / "movielens.toml")
    assert [event.date.year for event in shipped] == [2003, 2014, 2017]
    windows = calendar("quarter", 1_296_518_400, 1_310_000_000)
    assert event_records(EVENTS, windows)[1]["window"] == "2011Q2"
    path = tmp_path / "events.toml"
    for text, words in (
        ("[[event]]\ndate = 2017-03-01\n", "name"),
        ("x = ", "cannot be read"),
        ("x = 1", "event"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            read_events(path)


def test_weights_and_biases_get_the_summary(made_report, tmp_path, monkeypatch):
    report, _ = made_report
    lines, ended, summary = [], [], {}
    run = SimpleNamespace(
        log=lambda line, step: lines.append((step, line)), summary=summary, finish=lambda: ended.append(True)
    )
    fake = ModuleType("wandb")
    fake.init = lambda **options: run if options["mode"] == "offline" else 1 / 0
    fake.Settings = SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log_summary(report, CONFIG, tmp_path)
    assert lines == []
    log_summary(report, CONFIG.model_copy(update={"wandb": "offline"}), tmp_path)
    assert [step for step, _ in lines] == [0, 1, 2, 3]
    assert [line for _, line in lines] == window_figures(report)
    first, third = lines[0][1], lines[2][1]
    assert (first["data/severity"] < third["data/severity"], ended) == (True, [True])
    assert third["model/all.HR@10"] < first["model/all.HR@10"]
    assert "model/retrained.HR@10" in first
    assert "model/retrained.HR@10" not in third
    assert third["effect/rating"] > 1
    assert summary["headline"] == report.headline


def test_options_of_the_verb(tmp_path):
    assert [event.name[:10] for event in _events("movielens")] == ["half stars", "MovieLens ", "redesign o"]
    assert _events(None) == []
    options = ["--data", str(tmp_path), "--out", str(tmp_path), "--retrained", str(tmp_path)]
    answer = CliRunner().invoke(drift_command, options)
    assert isinstance(answer.exception, UsageError)
    assert "give --run too" in str(answer.exception)


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (0, 0, "all is well"),
        (10, 10, "all is well"),
        (1, 1, "all is well"),
        (ContractError("cut again"), 3, "error: cut again"),
        (UsageError("no such window"), 2, "error: no such window"),
    ],
)
def test_exit_codes(outcome, code, words, tmp_path, monkeypatch, capsys):
    """0 fine, 10 alert, 1 a cell failed, 3 contract, 2 usage; after a crash Python itself exits with 1."""

    def job(*args, **options):
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(headline="all is well", verdict="none"), outcome

    monkeypatch.setattr("drift.job.run_drift", job)
    options = ["--data", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        run(drift_command, options)
    assert ended.value.code == code
    said = capsys.readouterr()
    assert words in said.out + said.err
    for wrong in (["--data"], [*options, "--set", "window=decade"]):
        with pytest.raises(SystemExit) as ended:
            run(drift_command, wrong)
        assert ended.value.code == 2
