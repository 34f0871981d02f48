"""The shapes of the lines of `report.json`: what its JSON Schema says about each cell, window, event and figure."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

from pydantic import ConfigDict, GetCoreSchemaHandler, with_config
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from drift.config import Severity
from drift.model.lists import LISTS
from drift.model.names import RANKINGS, K
from drift.model.quality import GROUPS, METRICS

STRICT = ConfigDict(extra="forbid")


class Shaped:
    """Annotation of a plain dict: pydantic checks it against `shape` and writes that into the schema."""

    def __init__(self, shape: type) -> None:
        self.shape = shape

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the shape."""
        return handler.generate_schema(self.shape)


@with_config(STRICT)
class CellRecord(TypedDict):
    """One signal in one window and comparison, or one detector of alibi-detect; null: it has none."""

    window: str
    comparison: Literal["reference", "returning", "previous", "control"]
    detector: str
    signal: str
    n_users_ref: int
    n_users_cur: int
    n_events: int
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    effect_name: str
    shift: float | None
    p: float | None
    p_max: float | None
    p_adj: float | None
    p_floor: float | None
    threshold: float | None
    severity: Severity
    status: Literal["ok", "too_few", "error"]
    error: str


@with_config(STRICT)
class WindowRecord(TypedDict):
    """A future window: who was there, and the worst verdict of its signals."""

    name: str
    users: int
    new_users: int
    events: int
    turnover: float | None
    verdict: Severity


@with_config(STRICT)
class EventRecord(TypedDict):
    """A known event, and the future window that holds it."""

    date: str
    name: str
    window: str | None


def _quality_fields() -> dict[str, Any]:
    """Return the fields of a window's quality."""
    fields: dict[str, Any] = {"window": str, "n_users": int, "targets": int, "retrained.users": int}
    fields |= {
        "severity": Severity,
        "regret.severity": Severity,
        "lists.severity": Severity,
        "reference": float,
    }
    figures = [
        "mix",
        "within",
        "drop",
        "p",
        "p_adj",
        "smallest_fall",
        "hidden_mmd2",
        "hidden_p",
        "hidden_p_adj",
    ]
    figures += [
        "top10_mass",
        "calibration_gap",
        "entropy",
        *LISTS,
        *(f"{name}.{end}" for name in LISTS for end in ("p", "p_adj", "before")),
    ]
    figures += ["regret", *(f"regret.{name}" for name in ("low", "high", "p", "p_adj"))]
    figures += [f"retrained.{name}" for name in ("gain", "low", "high", "p")]
    figures += [f"{name}.HR@{K}" for name in (*RANKINGS[1:], "retrained")]
    for group in GROUPS:
        fields[f"{group}.users"] = int
        ends = ("", ".low", ".high")
        figures += [f"{group}.{metric.name}@{K}{end}" for metric, end in product(METRICS, ends)]
    return fields | dict.fromkeys(figures, float | None)


QualityRecord = with_config(STRICT)(TypedDict("QualityRecord", _quality_fields()))  # type: ignore
