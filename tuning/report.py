"""`report.html` of a sweep: one page without scripts or anything from the network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ss4rec.train.status import duration
from tuning.charts import Axis, Mark, bars, columns, lines, parallel, scatter
from tuning.space import SearchSpace, Value
from tuning.study import BASELINE, FACTS, REASON, best_trial

_KINDS = {TrialState.COMPLETE: "ended", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:12px;max-width:1320px;color:#1b2430;background:#fff}
h1{font-size:1.35em;line-height:1.3}h2{font-size:1.1em;margin:1.6em 0 .4em}
code{background:#f1f4f8;padding:2px 5px;border-radius:4px;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:16px;align-items:start}
figure{margin:0;border:1px solid #d9e0e8;border-radius:8px;padding:10px}figcaption{font-size:.88em;margin-bottom:6px}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:#47525f}
svg .name{font-weight:600;fill:#1b2430}svg .tick{font-size:10px}
svg .name,svg .tick{paint-order:stroke;stroke:#fff;stroke-width:3px}
.grid{stroke:#e3e8ee;stroke-width:1}.best-line{fill:none;stroke:#0b63ce;stroke-width:1.5}
circle.ended,rect.ended{fill:#0b63ce}circle.pruned,rect.pruned{fill:#9aa7b5}circle.failed,rect.failed{fill:#c62f2f}
circle.best,rect.best{fill:#d97a00}
polyline{fill:none;stroke-width:1.3;stroke-opacity:.55}polyline.ended{stroke:#0b63ce}
polyline.pruned{stroke:#9aa7b5}polyline.failed{stroke:#c62f2f}polyline.best{stroke:#d97a00;stroke-width:2.6;stroke-opacity:1}
.key{display:inline-block;padding:1px 8px;border-radius:10px;color:#fff;font-size:.85em}
.key.ended{background:#0b63ce}.key.pruned{background:#6b7785}.key.failed{background:#c62f2f}.key.best{background:#a85d00}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85em}
th,td{padding:3px 8px;border-bottom:1px solid #e3e8ee;text-align:left;white-space:nowrap}
"""


def write_report(study: optuna.Study, space: SearchSpace, name: str, epochs: int, path: Path) -> None:
    """Write the report of a sweep.

    Args:
        study: the sweep's study.
        space: what was searched.
        name: the sweep's name.
        epochs: most epochs of a trial.
        path: file to write.
    """
    draft = path.with_name(f".{path.name}")
    draft.write_text(page(study, space, name, epochs), encoding="utf-8")
    draft.replace(path)


def page(study: optuna.Study, space: SearchSpace, name: str, epochs: int) -> str:
    """Return the report as one HTML page."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state in _KINDS]
    best = best_trial(study)
    charts = [_history(trials, best), _importance(trials), _curves(trials, best)]
    charts += [_pareto(study, trials)] if len(study.directions) > 1 else []
    charts += [_slice(parameter, space, trials, best) for parameter in space.parameters]
    charts += [_parallel(space, trials, best), _cost(trials, best)]
    keys = " ".join(
        f'<span class="key {kind}">{text}</span>'
        for kind, text in (
            ("best", "best"),
            ("ended", "to its end"),
            ("pruned", "pruned"),
            ("failed", "failed"),
        )
    )
    body = [
        f"<h1>{html.escape(_headline(name, trials, best, epochs))}</h1>",
        _how_to(name, trials, best),
        f"<p>{keys}</p>",
        f'<div class="charts">{"".join(chart for chart in charts if chart)}</div>',
        "<h2>Trials</h2>",
        _table(space, trials, best),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>Sweep {html.escape(name)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>{"".join(body)}</body></html>\n'
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


def _how_to(name: str, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    if best is None:
        return ""
    point = ", ".join(f"{field} = {_text(value)}" for field, value in best.params.items())
    against = "".join(
        f" The baseline {trial.user_attrs[BASELINE]} (trial {trial.number}) reached {_values(trial)}."
        for trial in trials
        if BASELINE in trial.user_attrs and trial.state is TrialState.COMPLETE
    )
    return (
        f"<p>Best point: {html.escape(point)}.{html.escape(against)}</p>"
        "<p>Figures are of validation items; the test items were not looked at. "
        f"Train it: <code>ss4rec train --data DATA --preset @{html.escape(name)}/best.json</code></p>"
    )


def _history(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    marks = [
        Mark(trial.number, score, _kind(trial, best), _tip(trial))
        for trial in trials
        if (score := score_of(trial)) is not None
    ]
    line: list[tuple[float, float]] = []
    for mark in marks:
        if mark.kind in ("ended", "best") and (not line or mark.y > line[-1][1]):
            line.append((mark.x, mark.y))
    if line:
        line.append((marks[-1].x, line[-1][1]))
    y = Axis.around([mark.y for mark in marks])
    x = Axis.around([mark.x for mark in marks], whole=True)
    return scatter("History", "validation NDCG@10 by trial number", marks, x, y, line=line)


def _importance(trials: Sequence[FrozenTrial]) -> str:
    """Share of the variance of the result that each parameter explains (fANOVA).

    Trials are compared at the last epoch that half of them reached: few pruned sweeps have enough trials that ended.
    """
    scored = [trial for trial in trials if trial.intermediate_values]
    if scored:
        last = sorted((max(trial.intermediate_values) for trial in scored), reverse=True)
        epoch = last[len(last) // 2]
        points = [(t, t.intermediate_values[epoch]) for t in scored if epoch in t.intermediate_values]
        about = (
            f"share of the variance of NDCG@10 at epoch {epoch} explained, over {len(points)} trials (fANOVA)"
        )
    else:
        points = [(t, t.values[0]) for t in trials if t.state is TrialState.COMPLETE]
        about = (
            f"share of the variance of the result explained, over {len(points)} trials that ended (fANOVA)"
        )
    if len(points) < 4 or len({value for _, value in points}) < 2:
        return ""
    study = optuna.create_study(direction="maximize")
    for trial, value in points:
        study.add_trial(
            optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value)
        )
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return bars("Importance", about, [(_leaf(name), share, f"{share:.0%}") for name, share in found.items()])


def _curves(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    rows = [
        (_kind(trial, best), _tip(trial), [(float(epoch), score) for epoch, score in sorted(values.items())])
        for trial in trials
        if (values := trial.intermediate_values)
    ]
    if not rows:
        return ""
    rows.sort(key=lambda row: ("failed", "pruned", "ended", "best").index(row[0]))
    return lines("Pruning", "validation NDCG@10 by epoch; grey lines end where they were pruned", rows)


def _pareto(study: optuna.Study, trials: Sequence[FrozenTrial]) -> str:
    front = {trial.number for trial in study.best_trials}
    marks = [
        Mark(trial.values[1], trial.values[0], "best" if trial.number in front else "ended", _tip(trial))
        for trial in trials
        if trial.state is TrialState.COMPLETE
    ]
    x, y = Axis.around([mark.x for mark in marks]), Axis.around([mark.y for mark in marks])
    return scatter(
        "Trade-off", "first objective over second; orange ones are not beaten in both", marks, x, y
    )


def _slice(name: str, space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    axis = _axis(name, space)
    marks = [
        Mark(_number(trial.params[name], axis), score, _kind(trial, best), _tip(trial))
        for trial in trials
        if name in trial.params and (score := score_of(trial)) is not None
    ]
    marks.sort(key=lambda mark: ("failed", "pruned", "ended", "best").index(mark.kind))
    when = space.conditions.get(name)
    about = (
        f"where {_leaf(when.parent)} is {' or '.join(map(str, when.values))}" if when else "against NDCG@10"
    )
    return scatter(_leaf(name), about, marks, axis, Axis.around([mark.y for mark in marks]))


def _parallel(space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
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
        rows.append((_kind(trial, best), _tip(trial), [*values, score]))
    rows.sort(key=lambda row: ("failed", "pruned", "ended", "best").index(row[0]))
    return parallel("Parallel coordinates", "a line a trial, an axis a parameter, downwards", axes, rows)


def _cost(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    marks = [
        Mark(
            trial.number,
            seconds,
            _kind(trial, best),
            f"trial {trial.number}: {_epochs(trial)} epochs, {duration(seconds)}",
        )
        for trial in trials
        if (seconds := trial.user_attrs.get(FACTS, {}).get("elapsed_s")) is not None
    ]
    return columns("Cost", "seconds of training and validation by trial number", marks) if marks else ""


def _table(space: SearchSpace, trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    names = list(space.parameters)
    head = "".join(
        f"<th>{html.escape(text)}</th>" for text in ("trial", "ended", "NDCG@10", "epochs", "time")
    )
    head += "".join(f"<th>{html.escape(_leaf(name))}</th>" for name in names) + "<th>why it ended</th>"
    lines_ = []
    for trial in sorted(trials, key=lambda trial: -(score_of(trial) or -1.0)):
        facts, score = trial.user_attrs.get(FACTS, {}), score_of(trial)
        cells = [
            str(trial.number),
            f'<span class="key {_kind(trial, best)}">{_KINDS[trial.state]}</span>',
            "" if score is None else f"{score:.4f}",
            str(_epochs(trial)),
            duration(facts["elapsed_s"]) if "elapsed_s" in facts else "",
            *(html.escape(_text(trial.params[name])) if name in trial.params else "" for name in names),
            html.escape(str(trial.user_attrs.get(REASON, ""))[:160]),
        ]
        lines_.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines_)}</table></div>'


def _axis(name: str, space: SearchSpace) -> Axis:
    distribution = space.parameters[name]
    if isinstance(distribution, CategoricalDistribution):
        return Axis.of([_text(choice) for choice in distribution.choices])
    assert isinstance(distribution, FloatDistribution | IntDistribution), distribution
    return Axis.around([distribution.low, distribution.high], log=distribution.log)


def _number(value: Value, axis: Axis) -> float:
    return float(axis.names.index(_text(value))) if axis.names else float(value)  # type: ignore[arg-type]


def _kind(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    return "best" if best is not None and trial.number == best.number else _KINDS[trial.state]


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
