"""`report.html` of a sweep: one page, which loads nothing from the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from markupsafe import Markup
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ss4rec.report import Axis, Bar, Cell, Line, Mark, charts, render, write_page
from ss4rec.train.status import duration
from tuning.space import SearchSpace, Value
from tuning.study import BASELINE, FACTS, REASON, best_trial

_KINDS = {TrialState.COMPLETE: "ended", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_TONES = {"failed": "s5", "pruned": "muted", "ended": "s1", "best": "s2"}
"""Tone of each kind of trial; later ones lie on top in charts."""


def write_report(study: optuna.Study, space: SearchSpace, name: str, epochs: int, path: Path) -> None:
    """Write the report of a sweep.

    Args:
        study: the sweep's study.
        space: what was searched.
        name: the sweep's name.
        epochs: most epochs of a trial.
        path: file to write.
    """
    write_page(path, page(study, space, name, epochs))


def page(study: optuna.Study, space: SearchSpace, name: str, epochs: int) -> str:
    """Return the report as one HTML page."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _KINDS]
    best = best_trial(study)
    drawn = [_history(trials, best), _importance(trials), _curves(trials, best)]
    drawn += [_pareto(study, trials)] if len(study.directions) > 1 else []
    drawn += [_slice(parameter, space, trials, best) for parameter in space.parameters]
    drawn += [_parallel(space, trials, best), _cost(trials, best)]
    return render(
        "tuning",
        "sweep.html.j2",
        name=name,
        headline=_headline(name, trials, best, epochs),
        best=best and ", ".join(f"{field} = {_text(value)}" for field, value in best.params.items()),
        baselines=[
            (trial.user_attrs[BASELINE], trial.number, _values(trial))
            for trial in trials
            if BASELINE in trial.user_attrs and trial.state is TrialState.COMPLETE
        ],
        charts=[chart for chart in drawn if chart],
        head=["trial", "ended", "NDCG@10", "epochs", "time", *map(_leaf, space.parameters), "why it ended"],
        rows=_rows(space, trials, best),
    )


def score_of(trial: FrozenTrial) -> float | None:
    """Return the best validation NDCG@10 that a trial reached, however it ended."""
    found = trial.user_attrs.get(FACTS, {}).get("best_score")
    return max(trial.intermediate_values.values(), default=None) if found is None else found


def _headline(name: str, trials: Sequence[FrozenTrial], best: FrozenTrial | None, epochs: int) -> str:
    count = {kind: sum(_KINDS[trial.state] == kind for trial in trials) for kind in _KINDS.values()}
    spent, whole = sum(map(_epochs, trials)), epochs * max(1, len(trials) - count["failed"])
    result = "no trial reached its end" if best is None else f"{_values(best)} with trial {best.number}"
    return (
        f"{name}: {result}; {len(trials)} trials, {count['pruned']} pruned, {count['failed']} failed; "
        f"{spent} of {whole} epochs trained"
    )


def _history(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    marks = [
        Mark(trial.number, score, _tone(trial, best), _tip(trial))
        for trial in trials
        if (score := score_of(trial)) is not None
    ]
    line: list[tuple[float, float]] = []
    for mark in marks:
        if mark.tone in (_TONES["ended"], _TONES["best"]) and (not line or mark.y > line[-1][1]):
            line.append((mark.x, mark.y))
    if line:
        line.append((marks[-1].x, line[-1][1]))
    x = Axis.around([mark.x for mark in marks], whole=True)
    return charts.scatter("History", "validation NDCG@10 by trial number", marks, x=x, steps=line)


def _importance(trials: Sequence[FrozenTrial]) -> Markup:
    """Fraction of the variance of the result that each parameter explains (fANOVA).

    Trials are compared at the last epoch that half of them reached: few pruned sweeps have enough trials that ended.
    """
    scored = [trial for trial in trials if trial.intermediate_values]
    if scored:
        last = sorted((max(trial.intermediate_values) for trial in scored), reverse=True)
        epoch = last[len(last) // 2]
        points = [(t, t.intermediate_values[epoch]) for t in scored if epoch in t.intermediate_values]
        about = f"fraction of the variance of NDCG@10 at epoch {epoch} explained, over {len(points)} trials (fANOVA)"
    else:
        points = [(t, t.values[0]) for t in trials if t.state is TrialState.COMPLETE]
        about = (
            f"fraction of the variance of the result explained, over {len(points)} trials that ended (fANOVA)"
        )
    if len(points) < 4 or len({value for _, value in points}) < 2:
        return Markup("")
    study = optuna.create_study(direction="maximize")
    for trial, value in points:
        study.add_trial(
            optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value)
        )
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    rows = [Bar(_leaf(name), fraction, f"{fraction:.0%}") for name, fraction in found.items()]
    return charts.bars("Importance", about, rows)


def _curves(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    rows = [
        Line(
            _tip(trial),
            [(float(epoch), score) for epoch, score in sorted(values.items())],
            tone := _tone(trial, best),
            style="thick" if tone == _TONES["best"] else "thin",
        )
        for trial in trials
        if (values := trial.intermediate_values)
    ]
    if not rows:
        return Markup("")
    about = "validation NDCG@10 by epoch; grey lines end where they were pruned"
    return charts.lines("Pruning", about, sorted(rows, key=lambda row: _order(row.tone)))


def _pareto(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Markup:
    front = {trial.number for trial in study.best_trials}
    marks = [
        Mark(
            trial.values[1],
            trial.values[0],
            _TONES["best" if trial.number in front else "ended"],
            _tip(trial),
        )
        for trial in trials
        if trial.state is TrialState.COMPLETE
    ]
    return charts.scatter(
        "Trade-off", "first objective over second; orange ones are not beaten in both", marks
    )


def _slice(name: str, space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    axis = _axis(name, space)
    marks = [
        Mark(_number(trial.params[name], axis), score, _tone(trial, best), _tip(trial))
        for trial in trials
        if name in trial.params and (score := score_of(trial)) is not None
    ]
    marks.sort(key=lambda mark: _order(mark.tone))
    when = space.conditions.get(name)
    about = (
        f"where {_leaf(when.parent)} is {' or '.join(map(str, when.values))}" if when else "against NDCG@10"
    )
    return charts.scatter(_leaf(name), about, marks, x=axis)


def _parallel(space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    """Draw each trial as a line through its parameters and its score."""
    names = list(space.parameters)
    shown = [trial for trial in trials if score_of(trial) is not None and len(trial.params) > 1]
    axes = [(_leaf(name), _axis(name, space)) for name in names]
    scores = [score_of(trial) or 0.0 for trial in shown]
    axes.append(("NDCG@10", Axis.around(scores)))
    rows = []
    for trial, score in zip(shown, scores, strict=True):
        values = [
            _number(trial.params[n], a) if n in trial.params else None
            for n, (_, a) in zip(names, axes, strict=False)
        ]
        rows.append((_tone(trial, best), _tip(trial), [*values, score]))
    rows.sort(key=lambda row: _order(row[0]))
    return charts.parallel(
        "Parallel coordinates", "a line a trial, an axis a parameter, downwards", axes, rows
    )


def _cost(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Markup:
    marks = [
        Mark(
            trial.number,
            seconds,
            _tone(trial, best),
            f"trial {trial.number}: {_epochs(trial)} epochs, {duration(seconds)}",
        )
        for trial in trials
        if (seconds := trial.user_attrs.get(FACTS, {}).get("elapsed_s")) is not None
    ]
    if not marks:
        return Markup("")
    return charts.columns("Cost", "seconds of training and validation by trial number", marks)


def _rows(space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> list[list[object]]:
    """Return a table row a trial, the best first."""
    rows: list[list[object]] = []
    for trial in sorted(trials, key=lambda trial: -(score_of(trial) or -1.0)):
        facts, score = trial.user_attrs.get(FACTS, {}), score_of(trial)
        rows.append(
            [
                trial.number,
                Cell(_KINDS[trial.state], _tone(trial, best)),
                None if score is None else f"{score:.4f}",
                _epochs(trial),
                duration(facts["elapsed_s"]) if "elapsed_s" in facts else None,
                *(_text(trial.params[name]) if name in trial.params else None for name in space.parameters),
                str(trial.user_attrs.get(REASON, ""))[:160],
            ]
        )
    return rows


def _axis(name: str, space: SearchSpace) -> Axis:
    distribution = space.parameters[name]
    if isinstance(distribution, CategoricalDistribution):
        return Axis.of([_text(choice) for choice in distribution.choices])
    assert isinstance(distribution, FloatDistribution | IntDistribution), distribution
    return Axis.around([distribution.low, distribution.high], log=distribution.log)


def _number(value: Value, axis: Axis) -> float:
    return float(axis.names.index(_text(value))) if axis.names else float(value)  # type: ignore[arg-type]


def _tone(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    return _TONES["best" if best is not None and trial.number == best.number else _KINDS[trial.state]]


def _order(tone: str) -> int:
    return list(_TONES.values()).index(tone)


def _tip(trial: FrozenTrial) -> str:
    score = score_of(trial)
    point = ", ".join(f"{_leaf(name)}={_text(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}: {'no result' if score is None else f'{score:.4f}'} ({point})"


def _values(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4f}" if value < 1 else f"{value:,.0f}" for value in trial.values)


def _epochs(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(FACTS, {}).get("epoch", 0))


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
