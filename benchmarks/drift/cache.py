"""Results by task, a JSON line each, so that a benchmark that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_cache(path: Path) -> dict[str, Any]:
    """Return results by task; a line that a stopped run left unfinished is skipped."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found |= json.loads(line)
        except ValueError:
            continue
    return found
