"""What the loop has done: a line for each finished step, from which everything else follows.

A *cycle* is one look at one state of the data. A step is written down when it is done, so a loop that was killed goes
on with the step that it was in; every step gives the same result when it is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ss4rec.io.journal import Journal
from ss4rec.loop.decide import State, Training

Step = Literal["look", "decide", "train", "compare", "promote", "tell", "clear"]
JOURNAL = "journal.jsonl"


class LoopJournal:
    """The journal of one watched model.

    Args:
        work: the loop's folder.
    """

    def __init__(self, work: Path) -> None:
        self.file = Journal(work / JOURNAL)

    def rows(self) -> list[dict[str, Any]]:
        """Return all lines."""
        return self.file.rows()

    def cycle(self, key: str) -> dict[str, dict[str, Any]]:
        """Return the finished steps of a cycle by name."""
        return {row["step"]: row for row in self.rows() if row.get("cycle") == key}

    def write(self, key: str, step: Step, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write down that a step is done; returns the line."""
        row = {**found, "cycle": key, "step": step, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.file.append(row)
        return row

    def last(self, step: Step) -> dict[str, Any] | None:
        """Return the newest line of a step."""
        return next((row for row in reversed(self.rows()) if row["step"] == step), None)

    def last_finished_look(self, key: str) -> dict[str, Any] | None:
        """Return the look of the newest cycle but `key` that came to its end; others were given up for newer data."""
        rows = self.rows()
        ended = {row["cycle"] for row in rows if row["step"] == "tell"} - {key}
        return next((row for row in reversed(rows) if row["step"] == "look" and row["cycle"] in ended), None)

    def state(self, key: str) -> State:
        """Return what the loop had done when it decides in a cycle."""
        rows = self.rows()
        before = rows[: next((n for n, row in enumerate(rows) if _is(row, key, "decide")), len(rows))]
        look: dict[str, Any] = next((row for row in reversed(before) if _is(row, key, "look")), {})
        trained = [row for row in before if row["step"] == "train" and row["cycle"] != key]
        promoted = {row["cycle"] for row in before if row["step"] == "promote" and row["promoted"]}
        cleared = next((row["window"] for row in reversed(before) if row["step"] == "clear"), None)
        return State(
            has_champion=look.get("champion") is not None,
            ended_windows=int(look.get("ended_windows", 0)),
            champion_age=len(look.get("windows", ())),
            spare_windows=int(look.get("spare_windows", 0)),
            trainings=tuple(
                Training(int(row["ended_windows"]), row["how"], row["cycle"] in promoted) for row in trained
            ),
            past_changed=look.get("past_changed", ""),
            past_cleared=bool(look.get("windows")) and cleared == look["windows"][-1],
            cleared=cleared,
        )


def _is(row: Mapping[str, Any], key: str, step: Step) -> bool:
    return row.get("cycle") == key and row["step"] == step
