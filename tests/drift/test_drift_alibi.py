"""The adapter to alibi-detect: every detector runs, on what it is valid on; and how its verdicts stand beside ours."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from benchmarks.drift.controls import layout_plan, still_context
from benchmarks.drift.simulate import Plant, simulate
from drift.cells import alibi
from drift.cells.alibi import Answer, Sides, run_detector, run_on_model, user_vectors
from drift.cells.compare import sides
from drift.cells.run import run_cell
from drift.cells.types import Cell, Row
from drift.config import DETECTORS, DriftConfig, check_detectors
from drift.report.verdict import judge
from ss4rec.errors import UsageError
from tests.drift.test_drift_cells import CONFIG, context

MOVED = Plant(windows=5, users=120, step=4, rating=-2.0, gap=1.0)
ONLINE = ("mmd_online", "lsdd_online")


@pytest.fixture(scope="module")
def moved():
    """A window in which stars fall by one and gaps are ten times as long."""
    return context(MOVED, config=CONFIG.model_copy(update={"alibi_users": 120}))


@pytest.fixture(scope="module")
def still():
    """Two windows without a change, each with a year before it, and without the signals of a catalogue that ages."""
    made = simulate(Plant(windows=7, users=120, step=7, returning=0.0), 0)
    return still_context(made, layout_plan(made, [5], 5, [6]), CONFIG)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Fewer bootstraps, so that the online detectors start in a second."""
    monkeypatch.setattr(alibi, "ONLINE_BOOTSTRAPS", 300)
    monkeypatch.setattr(alibi, "ONLINE_RUN", 150.0)


@pytest.mark.parametrize("name", DETECTORS)
def test_each_detector_sees_a_change_and_repeats_itself(moved, name):
    pytest.importorskip("alibi_detect.cd")
    first, again = (run_cell(moved, Cell("reference", 4, f"alibi:{name}"))[0] for _ in range(2))
    assert first.status == "ok", first.error
    assert first.severity == "noted"
    assert repr(replace(first, ms=0.0)) == repr(replace(again, ms=0.0))
    if name in ONLINE:
        assert np.isnan(first.p)
        assert 1 <= first.effect <= alibi.ONLINE_USERS
    else:
        assert 0 < first.p <= 0.05


@pytest.mark.parametrize("name", ["cvm", "lsdd", "mmd_online"])
def test_without_a_change_there_is_no_verdict(still, name):
    pytest.importorskip("alibi_detect.cd")
    row = run_cell(still, Cell("reference", 6, f"alibi:{name}"))[0]
    assert (row.status, row.severity) == ("ok", "none"), row.error


def test_what_a_detector_gets(moved, monkeypatch):
    """Float64, no NaN, one row a user, nobody twice, no more than asked for, columns on one scale."""
    seen = []
    monkeypatch.setitem(alibi.DETECTORS, "ks", lambda sides: seen.append(sides) or Answer(0.5, 1.0))
    for limit in (40, 10_000):
        limited = replace(moved, config=moved.config.model_copy(update={"alibi_users": limit}))
        run_detector(limited, Cell("reference", 4, "alibi:ks"))
    small, whole = seen
    assert (len(small.ref_ND), len(small.cur_MD)) == (40, 40)
    ref, cur = sides(moved, Cell("reference", 4, "alibi:ks"), np.random.default_rng(0))
    common_S = [signal.name not in alibi.rare_signals((ref, cur), moved.layout) for signal in moved.layout]
    complete_N = (ref.weights_NS[:, common_S] > 0).all(axis=1)
    alone_N = ~np.isin(ref.users_N, cur.users_N)
    assert len(whole.ref_ND) == (complete_N & alone_N).sum() < complete_N.sum()
    joined = np.concatenate([whole.ref_ND, whole.cur_MD])
    assert joined.dtype == np.float64
    assert np.isfinite(joined).all()
    np.testing.assert_allclose(joined.mean(axis=0), 0, atol=1e-9)
    assert "unseen_item" not in whole.names
    assert whole.of(["genre"]).sum() > 1
    assert whole.of(alibi.CONTEXT).sum() == 3


def test_users_who_lack_a_signal_are_left_out(moved):
    """KS with one NaN says "no drift" and MMD with one says "drift": neither may ever see one."""
    side = moved.histograms.blocks([4], moved.layout)
    side.weights_NS[:7, 3] = 0
    side.weights_NS[:, -2] = 1
    rows_ND, users, names = user_vectors(side, moved.layout)
    assert np.isfinite(rows_ND).all()
    assert len(rows_ND) == len(users) == (side.weights_NS > 0).all(axis=1).sum() < len(side.users_N)
    assert len(names) == rows_ND.shape[1]


def test_too_few_users_is_no_verdict(moved):
    window_R = moved.histograms.window_R
    left_out_R = (window_R == 4) & (np.arange(len(window_R)) % 40 > 0)
    few = replace(moved, histograms=replace(moved.histograms, window_R=np.where(left_out_R, 99, window_R)))
    row = run_cell(few, Cell("reference", 4, "alibi:ks"))[0]
    assert (row.status, row.severity) == ("too_few", "undecided")


def test_a_permutation_p_is_never_zero(moved):
    """The library's is b / B."""
    assert alibi._counted(0.0, 100) == 1 / 101
    assert alibi._counted(0.3, None) == 0.3


def test_lsdd_gets_no_column_that_the_reference_does_not_vary_in():
    rng = np.random.default_rng(0)
    ref, cur = rng.standard_normal((2, 30, 3))
    ref[:, 1] = 0.2
    assert Sides(ref, cur, ("a", "b", "c")).varied().names == ("a", "c")


def test_unknown_detectors_are_refused():
    with pytest.raises(ValidationError, match="kss"):
        DriftConfig(alibi=("kss",))
    assert DriftConfig(alibi="all").alibi == DETECTORS


def test_the_model_is_looked_at_as_well():
    """States that moved are flagged, the halves of the reference are not."""
    pytest.importorskip("alibi_detect.cd")
    rng = np.random.default_rng(0)

    def window(number, shift, users=60):
        states = rng.standard_normal((users, 4)) + shift
        return pa.table(
            {
                "user": np.arange(users),
                "window": np.full(users, number, np.int32),
                "top10": [[1]] * users,
                "hidden": states.astype(np.float32).tolist(),
                "top10_mass": rng.random(users),
                "entropy": rng.random(users),
            }
        )

    ranks = pa.concat_tables([window(-1, 0), window(5, 0), window(6, 2)])
    rows = run_on_model(ranks, [(5, "a"), (6, "b")], CONFIG.model_copy(update={"alibi": ("ks", "mmd")}))
    found = {(row.detector, row.signal, row.comparison, row.window): row.severity for row in rows}
    assert {row.status for row in rows} == {"ok"}
    for name in ("alibi:ks", "alibi:mmd"):
        assert found[name, "states", "reference", "b"] == "noted"
        assert found[name, "states", "reference", "a"] == "none"
        assert found[name, "states", "control", "a"] == "none"
        assert found[name, "scores", "reference", "b"] == "none"


def test_detectors_are_held_to_what_past_windows_gave():
    """A p alone is no alarm: the statistic must be above that of past windows against the reference."""
    context_ = context(Plant(windows=7, users=20))
    names = [context_.name(window) for window in (1, 2, 3, 4)]

    def row(window, effect, p):
        return Row(window, "reference", "alibi:ks", "inputs", 50, 50, effect=effect, p=p)

    rows = [row(names[0], 0.3, 0.001), row(names[2], 0.2, 0.001), row(names[3], 0.4, 0.001)]
    judge(context_, rows)
    assert [r.severity for r in rows[1:]] == ["noted", "drift"]
    assert rows[1].threshold == 0.3


def test_missing_detectors_are_named_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr("drift.config.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs alibi-detect"):
        check_detectors(DriftConfig(alibi=("ks",)))
    assert DriftConfig().alibi == ()
    check_detectors(DriftConfig())
