"""The folder of a report: what is written, in which order, and what a later report (`--since-last`) reads back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.cells.types import CellContext, Row
from drift.config import NOT_DECISIVE, DriftConfig
from drift.plan import Plan
from drift.report.contents import CELLS_NAME, Report, read_rows, write_tables
from drift.report.page import page
from drift.signals.histograms import UserHistograms
from ss4rec.errors import ContractError
from ss4rec.io.untrusted import read_json

HISTOGRAMS_NAME, KEY_NAME, PAGE_NAME = "profile.parquet", "profile.json", "report.html"


def write_all(out: Path, key: dict[str, Any], report: Report, rows: list[Row], context: CellContext) -> None:
    """Write a report's files over those of an earlier one.

    The key says that all files belong together: it goes first and comes last, so `--since-last` never adds to a report
    whose job was killed here.
    """
    (out / KEY_NAME).unlink(missing_ok=True)
    context.histograms.save(out / HISTOGRAMS_NAME)
    write_tables(report, rows, out)
    (out / PAGE_NAME).write_text(page(report, context.layout), encoding="utf-8")
    (out / KEY_NAME).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def stable_keys(source_ids: list[int] | list[str]) -> NDArray[np.int64]:
    """Return a key of each user that stays the same when users are added: the id, or 63 bits of its hash."""
    if isinstance(source_ids[0], int):
        return np.array(source_ids, np.int64)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in source_ids)
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int64)


def merge_key(config: DriftConfig, plan: Plan, labels: tuple[str, ...]) -> dict:
    """Return what must agree before the histograms of two reports may be added."""
    names = [[plan.windows[number].name for number in side] for side in (plan.reference, plan.calibration)]
    decisive = config.model_dump(mode="json", exclude={*NOT_DECISIVE, "fail_on"})
    return {
        "cut_s": plan.cut_s,
        "first": plan.windows[0].name,
        "reference": names[0],
        "calibration": names[1],
        "genres": list(labels),
        "config": decisive,
    }


def read_earlier(out: Path, key: dict[str, Any]) -> tuple[list[Row], UserHistograms | None]:
    """Read rows and histograms of an earlier report.

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
    changed = [name for name in key if before.get(name) != key[name]]
    if changed:
        raise ContractError(
            f"--since-last: {out} was made with another {', '.join(changed)}; run without --since-last"
        )
    return read_rows(out / CELLS_NAME), UserHistograms.load(out / HISTOGRAMS_NAME)
