"""The summary of a report on Weights & Biases: verdicts, and a line of figures a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drift.cells.types import OWN_TEST, REFERENCE
from drift.config import NOT_DECISIVE, SEVERITIES, DriftConfig
from drift.report.contents import Report
from ss4rec.config import TrackingConfig
from ss4rec.train.trackers.weights_biases import start_wandb

QUALITY = (
    "all.HR@10",
    "all.NDCG@10",
    "drop",
    "p_adj",
    "pop_frozen.HR@10",
    "pop_rolling.HR@10",
    "follow.HR@10",
    "retrained.HR@10",
    "regret",
    "smallest_fall",
)


def window_figures(report: Report) -> list[dict[str, Any]]:
    """Return the figures of each future window, in order of time; what is not known is left out."""
    quality = {record["window"]: record for record in report.quality}
    lines = []
    for window in report.windows:
        main = [
            cell
            for cell in report.cells
            if cell["window"] == window["name"]
            and (cell["comparison"], cell["detector"], cell["status"]) == (REFERENCE, OWN_TEST, "ok")
        ]
        line = {
            "data/users": window["users"],
            "data/new_users": window["new_users"],
            "data/events": window["events"],
            "data/turnover": window["turnover"],
            "data/severity": SEVERITIES.index(window["verdict"]),
        }
        line |= {f"effect/{cell['signal']}": cell["effect"] / cell["threshold"] for cell in main}
        record = quality.get(window["name"], {})
        line |= {f"model/{name}": record.get(name) for name in QUALITY}
        lines.append({name: value for name, value in line.items() if value is not None})
    return lines


def log_summary(report: Report, config: DriftConfig, out: Path) -> None:
    """Send the summary, unless `config.wandb` is `disabled`; offline runs lie in `out/wandb`."""
    tracking = TrackingConfig(wandb=config.wandb, project=config.project)
    run = start_wandb(out, tracking, config.model_dump(mode="json", exclude=NOT_DECISIVE), None)
    if run is None:
        return
    for step, line in enumerate(window_figures(report)):
        run.log(line, step=step)
    run.summary.update({name: getattr(report, name) for name in ("headline", "verdict", "alert")})
    answers = report.verdicts.model_dump().items()
    run.summary.update({f"verdict/{name}": value["now"] for name, value in answers if value})
    run.summary.update({"changes": [change.sentence for change in report.changes]})
    run.finish()
