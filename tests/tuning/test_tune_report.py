"""The report: complete without a network, drawn in a real browser at two widths."""

import re

import pytest
from optuna.trial import TrialState

from tests.browser import needs_browser, require_readable, require_self_contained
from tests.tuning.test_study import facts, opened
from tuning.report import page


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
    require_self_contained(text)
    assert "sweep &lt;1&gt;" in text
    assert "<b>loss</b>" not in text
    best = max((t for t in swept.study.trials if t.state is TrialState.COMPLETE), key=lambda t: t.values[0])
    assert f"{best.values[0]:.4f} with trial {best.number}" in text
    assert re.search(r"The baseline debug \(trial 0\) reached 0\.\d{4}\.", text)


def test_a_sweep_without_trials_has_a_page(tmp_path, space):
    assert "no trial reached its end" in page(opened(tmp_path, space).study, space, "empty", 9)


@needs_browser
def test_every_plot_is_drawn_and_readable(swept, tmp_path):
    names = require_readable(page(swept.study, swept.space, "sweep", 9), tmp_path)
    assert names[:3] == ["History", "Importance", "Pruning"]
    assert {"lr", "schedule", "final_lr_share", "Parallel coordinates", "Cost"} <= set(names)
