"""The page in a real browser, known events, and the summary that Weights & Biases gets."""

import html
import json
import re
import shutil
import subprocess
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
from drift.config import DriftConfig
from drift.events import SHIPPED, KnownEvent, event_records, read_events
from drift.model.followers import count_pairs
from drift.model.quality import Baselines, QualityTask, rank, summarise, targets
from drift.plan import Plan
from drift.report.assemble import assemble
from drift.report.page import page
from drift.report.verdict import judge
from drift.report.wandb_summary import log_summary, window_figures
from drift.signals.histograms import HistogramMaker
from drift.signals.items import ItemCounts, read_item_facts, top_items, turnover
from ss4rec.cli import run
from ss4rec.cli.drift import _events, drift_command
from ss4rec.config import DataConfig
from ss4rec.errors import ContractError, UsageError

CONFIG = DriftConfig(permutations=199, bootstrap=20, min_users=40, wandb="disabled")
EVENTS = [
    KnownEvent(date=date(2003, 2, 1), name="before"),
    KnownEvent(date=date(2011, 5, 2), name="<redesign> & more"),
]


def quality(made, plant, plan):
    """Records of the planted model, with all baselines and a retrained line that stops halfway."""
    counts_V = np.arange(plant.items + 1)
    task = QualityTask(
        config=CONFIG,
        data=DataConfig(max_len=10, overlap=2),
        windows=made.windows,
        chosen=dict.fromkeys(plan.future, 1.0),
        cut_s=plan.cut_s,
        vocabulary=plant.items,
        baselines=Baselines(
            counts_V, dict.fromkeys(plan.future, counts_V), count_pairs(made.shard, plant.items, plan.cut_s)
        ),
    )
    ranks = rank(PlantedModel(made), targets(made.shard, task), task)
    names = [(window, made.windows[window].name) for window in plan.future]
    later = ranks.filter(pa.compute.less_equal(ranks["window"], plan.future[1]))
    records = summarise(ranks, names, CONFIG, plant.items, later)
    return [{k: None if v != v else v for k, v in record.items()} for record in records]


@pytest.fixture(scope="module")
def made_report():
    """A report on four future quarters, whose transitions and ratings change in the third, and its layout."""
    plant = Plant(windows=9, users=80, items=120, step=7, rating=-0.6, concept=True)
    made = simulate(plant, 0)
    plan = Plan(made.windows, made.windows[5].start_s - 1, [3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2])
    counts = ItemCounts.of_shard(made.shard, made.windows, plant.items)
    catalogue = read_item_facts(made.items, plant.items, plant.items)
    make = HistogramMaker(made.windows, list(range(9)), catalogue, counts, plan.year_before)
    context = CellContext(CONFIG, plan, make(made.shard), make.layout)
    rows = [row for cell in all_cells(plan, plan.future, ()) for row in run_cell(context, cell)]
    judge(context, rows)
    return assemble(context, rows, quality(made, plant, plan), counts, EVENTS), make.layout


def test_report_says_what_was_planted(made_report):
    report, layout = made_report
    assert report.headline.startswith("Both: inputs changed since 2011Q4")
    assert "harmed since 2011Q4" in report.headline
    assert [window["turnover"] is not None for window in report.windows] == [True] * 4
    assert 0 <= report.past_turnover[0] <= report.past_turnover[1] <= 1
    assert [event["window"] for event in report.known_events] == [None, "2011Q2"]
    text = page(report, layout)
    assert "&lt;redesign&gt; &amp; more" in text
    assert "<redesign>" not in text
    retrained = [record["retrained.HR@10"] for record in report.quality]
    assert retrained[:2] == [record["all.HR@10"] for record in report.quality[:2]]
    assert retrained[2:] == [None, None]


def test_a_model_that_popularity_beats_from_the_first_day_is_named(made_report):
    report, layout = made_report
    assert "no better than" not in page(report, layout)
    first = report.quality[0] | {"all.HR@10": 0.01, "pop_frozen.HR@10": 0.02, "pop_rolling.HR@10": 0.0}
    first["follow.HR@10"] = 0.0
    weak = report.model_copy(update={"quality": [first, *report.quality[1:]]})
    assert "no better than popularity at the cut." in page(weak, layout)


MEASURE = """<script>addEventListener("load", () => {
const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255;
  return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
  return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const under = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/^rgba.*, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
const contrast = e => { const a = light(getComputedStyle(e).color), b = light(under(e));
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
const plots = [...document.querySelectorAll("svg")].map(s => { const b = s.getBoundingClientRect();
  const marks = [...s.querySelectorAll("rect,polyline")].filter(m => { const r = m.getBoundingClientRect();
    return r.width > 0 && r.left >= b.left - 1 && r.right <= b.right + 1 && r.bottom <= b.bottom + 1; });
  const text = [...s.querySelectorAll("text")].map(t => t.getBoundingClientRect().height);
  return { name: s.getAttribute("aria-label"), width: b.width, marks: marks.length, text: Math.min(99, ...text),
    bad: /NaN|undefined|Infinity/.test(s.outerHTML) }; });
const words = [...document.querySelectorAll("h1,h2,p,td,th,small,figcaption,summary,li,.key")];
parent.document.body.dataset.found = JSON.stringify({ plots, inner: innerWidth,
  page: document.documentElement.scrollWidth,
  smallest: Math.min(...words.map(w => parseFloat(getComputedStyle(w).fontSize))),
  contrast: Math.min(...words.filter(w => w.textContent.trim()).map(contrast)),
  faint: words.filter(w => w.textContent.trim() && contrast(w) < 4.5).map(w => w.outerHTML.slice(0, 80)).slice(0, 5),
  dark: light(getComputedStyle(document.body).backgroundColor) < .5 }); });</script>"""


def browse(text, folder, width, dark):
    """Open a page in headless Chromium; returns what `MEASURE` found, and the console's errors."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine; install the Debian package `chromium` to run this test")
    path = folder / "page.html"
    # In a frame, since Chromium's own window is at least 500 pixels wide.
    frame = f'<iframe style="width:{width}px;height:1900px;border:0" srcdoc="{html.escape(text + MEASURE)}"></iframe>'
    path.write_text(f"<!doctype html><body style='margin:0'>{frame}", encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    )
    command = [
        browser, *flags.split(), "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},2000", "--virtual-time-budget=2000",
        *(["--force-dark-mode"] if dark else []), "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)])
def test_every_plot_is_drawn_and_readable(made_report, tmp_path, width, dark):
    """No error on the console, no sideways scrolling of the page, text of 11 px or more with enough contrast."""
    report, layout = made_report
    found, errors = browse(page(report, layout), tmp_path, width, dark)
    assert errors == []
    assert (found["inner"], found["dark"]) == (width, dark)
    assert found["page"] <= width
    names = [plot["name"] for plot in found["plots"]]
    assert {"HR@10 by window", "change of HR@10: mix and within", *(signal.name for signal in layout)} == set(
        names
    )
    for plot in found["plots"]:
        assert plot["width"] > 200, plot
        assert plot["marks"] > 0, plot
        assert plot["text"] >= 10, plot
        assert not plot["bad"], plot
    assert found["smallest"] >= 11
    assert found["contrast"] >= 4.5, found["faint"]


def test_the_browser_would_tell(tmp_path):
    """The same measurement on a page with an error, an empty plot, tiny grey text and a wide table."""
    broken = (
        '<body style="background:#fff;margin:0"><p style="font-size:6px;color:#ddd">x</p><svg aria-label="empty"></svg>'
        '<div style="width:3000px">wide</div><script>console.error("broken")</script>'
    )
    found, errors = browse(broken, tmp_path, 400, dark=False)
    assert len(errors) == 1
    assert found["page"] > 400
    assert found["plots"][0]["marks"] == 0
    assert found["smallest"] == 6
    assert found["contrast"] < 2


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
    for wrong in (["--data"], [*options, "--set", "window=week"]):
        with pytest.raises(SystemExit) as ended:
            run(drift_command, wrong)
        assert ended.value.code == 2
