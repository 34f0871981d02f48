"""The folder of a report: what is written, in which order, and what a later report (`--since-last`) reads back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drift.cells.types import CellContext, Row
from drift.config import NOT_DECISIVE, DriftConfig
from drift.plan import Plan
from drift.report.contents import CELLS_NAME, SCHEMA_VERSION, Report, read_rows, write_tables
from drift.report.page import page
from drift.signals.histograms import UserHistograms
from drift.signals.items import ItemFacts
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.errors import ContractError
from ss4rec.io.untrusted import read_json
from ss4rec.report import write_page
from ss4rec.runs.folder import RunFolder

HISTOGRAMS_NAME, KEY_NAME, PAGE_NAME = "profile.parquet", "profile.json", "report.html"
ITEMS_NAME, RANKS_NAME = "items.parquet", "ranks.parquet"
ITEM_COLUMNS = ["source_id", "title", "genres"]


@dataclass(frozen=True)
class Earlier:
    """What a report left for the next one."""

    rows: list[Row]
    histograms: UserHistograms
    items: pa.Table
    ranks: pa.Table | None
    """None: without a model, or with another one."""


def write_all(
    out: Path,
    key: dict[str, Any],
    report: Report,
    rows: list[Row],
    context: CellContext,
    items: pa.Table,
    ranks: pa.Table | None = None,
) -> None:
    """Write a report's files over those of an earlier one.

    The key says that all files belong together: it goes first and comes last, so `--since-last` never adds to a report
    whose job was killed here.
    """
    (out / KEY_NAME).unlink(missing_ok=True)
    context.histograms.save(out / HISTOGRAMS_NAME)
    pq.write_table(items.select(ITEM_COLUMNS), out / ITEMS_NAME, compression="zstd")
    (out / RANKS_NAME).unlink(missing_ok=True)
    if ranks is not None:
        pq.write_table(ranks, out / RANKS_NAME, compression="zstd")
    write_tables(report, rows, out)
    write_page(out / PAGE_NAME, page(report, context.layout))
    (out / KEY_NAME).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def merge_key(config: DriftConfig, plan: Plan, facts: ItemFacts, run: Path | None) -> dict[str, Any]:
    """Return what must agree before the histograms of two reports may be added; another `run` only ranks anew."""
    names = [[plan.windows[number].name for number in side] for side in (plan.reference, plan.calibration)]
    decisive = config.model_dump(mode="json", exclude={*NOT_DECISIVE, "fail_on"})
    return {
        "version": SCHEMA_VERSION,
        "cut_s": plan.cut_s,
        "first": plan.windows[0].name,
        "reference": names[0],
        "calibration": names[1],
        "genres": list(facts.labels),
        "features": {feature.signal.name: list(feature.signal.labels) for feature in facts.features},
        "context": {c.signal.name.removeprefix(CONTEXT): c.record() for c in facts.context},
        "config": decisive,
        "run": None if run is None else _run_mark(run),
    }


def _run_mark(run: Path) -> str:
    """Return what tells one run's best checkpoint from another's."""
    from ss4rec.runs import checkpoint

    record = RunFolder.open(run).record()
    return f"{record.name} {record.created} {checkpoint.best(RunFolder.open(run).checkpoints).path.name}"


def earlier_genres(out: Path) -> tuple[str, ...] | None:
    """Return the genre labels of the report in `out`, None without one: labels that are lost since keep their bins."""
    try:
        return tuple(read_json(out / KEY_NAME)["genres"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def earlier_context(out: Path) -> dict[str, Any] | None:
    """Return the bins of the columns about events of the report in `out`, None without one."""
    try:
        return dict(read_json(out / KEY_NAME)["context"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_earlier(out: Path, key: dict[str, Any]) -> Earlier:
    """Read what an earlier report left.

    Raises:
        ContractError: if there is none, or it was made with another cut, reference or configuration.
    """
    if not (out / KEY_NAME).exists():
        raise ContractError(f"--since-last: {out} holds no report that was finished; run once without it")
    try:
        before = read_json(out / KEY_NAME)
    except (OSError, ValueError) as error:
        raise ContractError(
            f"--since-last: {out / KEY_NAME} cannot be read ({error}); run without --since-last"
        ) from None
    changed = [name for name in key if name != "run" and before.get(name) != key[name]]
    if changed:
        raise ContractError(
            f"--since-last: {out} was made with another {', '.join(changed)}; run without --since-last"
        )
    ranks = out / RANKS_NAME
    same_run = key["run"] is not None and before.get("run") == key["run"]
    return Earlier(
        read_rows(out / CELLS_NAME),
        UserHistograms.load(out / HISTOGRAMS_NAME),
        pq.read_table(out / ITEMS_NAME),
        pq.read_table(ranks) if same_run and ranks.exists() else None,
    )
