"""Moments as people write them: a date, an ISO time or unix seconds."""

from __future__ import annotations

from datetime import UTC, date, datetime

DAY_S = 86_400


def last_second(text: str) -> int:
    """Return a moment as unix seconds; of a date, such as `2015-03-31`, its last second (UTC).

    Raises:
        ValueError: if `text` is no date, no ISO time and no whole number.
    """
    if text.isdigit():
        return int(text)
    if len(text) == len("2015-03-31"):
        day = date.fromisoformat(text)
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) + DAY_S - 1
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
