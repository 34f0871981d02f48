"""The report: complete without a network, drawn in a real browser at two widths."""

import html
import json
import re
import shutil
import subprocess

import pytest
from optuna.trial import TrialState

from tests.tuning.test_study import facts, opened
from tuning.charts import Axis
from tuning.report import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"),
]
MEASURE = """<script>addEventListener("load", () => {
  const frame = document.querySelector("iframe"), inner = frame.contentDocument;
  const boxes = [...inner.querySelectorAll("svg")].map(svg => {
    const at = part => part.getBoundingClientRect(), all = names => [...svg.querySelectorAll(names)], s = at(svg);
    return {
      name: svg.getAttribute("aria-label"),
      width: s.width,
      marks: all("circle,rect,polyline").filter(m => at(m).width + at(m).height > 0.5).length,
      outside: all("circle,rect,polyline,text").filter(m =>
        at(m).left < s.left - 1 || at(m).right > s.right + 1 || at(m).bottom > s.bottom + 1).length,
      text: Math.min(...all("text").map(t => at(t).height))}});
  const pre = document.createElement("pre"); pre.id = "measured";
  pre.textContent = JSON.stringify({page: inner.documentElement.scrollWidth, boxes});
  document.body.append(pre)})</script>"""


@pytest.fixture
def swept(tmp_path, space):
    """A sweep of thirty trials: most pruned, one failed, the rest to their end."""
    sweep = opened(tmp_path, space, trials=30)
    for index in range(30):
        number = sweep.ask().number
        score = 0.1 + 0.3 * (index * 7 % 13) / 13
        for epoch in range(1, 10 if index % 3 == 0 else 3):
            sweep.report(number, epoch, score * epoch / 9)
        seconds = {"elapsed_s": 2.0 + index}
        if index == 5:
            sweep.fail(number, "NonFiniteError: <b>loss</b>", {})
        elif index % 3 == 0:
            sweep.complete(number, facts(score) | seconds)
        else:
            sweep.prune(number, facts(score / 4, epoch=2) | seconds)
    return sweep


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_shows(swept):
    text = page(swept.study, swept.space, "sweep <1>", 9)
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(|<script""", text)
    assert "sweep &lt;1&gt;" in text
    assert "<b>loss</b>" not in text
    best = max((t for t in swept.study.trials if t.state is TrialState.COMPLETE), key=lambda t: t.values[0])
    assert f"{best.values[0]:.4f} with trial {best.number}" in text
    assert re.search(r"The baseline debug \(trial 0\) reached 0\.\d{4}\.", text)


def test_a_sweep_without_trials_has_a_page(tmp_path, space):
    assert "no trial reached its end" in page(opened(tmp_path, space).study, space, "empty", 9)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 400])
def test_every_plot_is_drawn_and_readable(swept, tmp_path, width):
    # A window of Chromium is at least 500 pixels wide, so the report goes into a frame of the width under test.
    report = html.escape(page(swept.study, swept.space, "sweep", 9))
    path = tmp_path / "frame.html"
    frame = f'<iframe style="border:0" width="{width}" height="3000" srcdoc="{report}"></iframe>'
    path.write_text(f'<meta charset="utf-8">{frame}{MEASURE}')
    shown = subprocess.run(
        [
            *(CHROMIUM, *OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,3000"),
            *("--virtual-time-budget=2000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in shown.stderr
    measured = json.loads(re.search(r'<pre id="measured">(.*?)</pre>', shown.stdout).group(1))
    assert measured["page"] <= width, "the page scrolls sideways"
    names = [box["name"] for box in measured["boxes"]]
    assert names[:3] == ["History", "Importance", "Pruning"]
    assert {"lr", "schedule", "final_lr_share", "Parallel coordinates", "Cost"} <= set(names)
    for box in measured["boxes"]:
        assert box["marks"] > 0, f"{box['name']} is empty"
        assert box["outside"] == 0, f"{box['name']} has marks or labels outside"
        assert box["width"] >= 300
        assert box["text"] >= 10, f"{box['name']} has text of {box['text']} px"


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0.0, 1.0, False), (-3.0, 1e6, False), (1e-4, 3e-2, True), (0.98, 0.99, False)]
)
def test_ticks_lie_inside_their_axis(low, high, log):
    axis = Axis.around([low, high], log=log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(axis.low <= value <= axis.high for value, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    places = [axis.at(value, 0, 100) for value, _ in ticks]
    assert places == sorted(places)
