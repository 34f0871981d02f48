"""Fourteen changes planted into an archive: what is done to its events, and what a report should call it.

The events are a table `user, item, time_s, rating`, in order of user and time, with `titles` and `genres` by item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

HOUR_S, DAY_S, WEEK_S = 3600, 86_400, 7 * 86_400


@dataclass(frozen=True)
class Events:
    """One archive."""

    user_E: np.ndarray
    item_E: np.ndarray
    time_E: np.ndarray
    rating_E: np.ndarray
    titles: dict[int, str]
    genres: dict[int, str]
    """Separated by bars, as in `movies.csv`."""

    def ordered(self) -> Events:
        """Return the events in order of user and time."""
        order = np.lexsort((self.time_E, self.user_E))
        parts = (self.user_E, self.item_E, self.time_E, self.rating_E)
        return replace(
            self,
            **dict(zip(("user_E", "item_E", "time_E", "rating_E"), (p[order] for p in parts), strict=True)),
        )

    def keep(self, kept_E: np.ndarray) -> Events:
        """Return some of the events."""
        return replace(self, user_E=self.user_E[kept_E], item_E=self.item_E[kept_E], time_E=self.time_E[kept_E],
                       rating_E=self.rating_E[kept_E])  # fmt: skip

    def append(
        self, user_X: np.ndarray, item_X: np.ndarray, time_X: np.ndarray, rating_X: np.ndarray
    ) -> Events:
        """Return the events with more."""
        return replace(
            self,
            user_E=np.r_[self.user_E, user_X],
            item_E=np.r_[self.item_E, item_X],
            time_E=np.r_[self.time_E, time_X],
            rating_E=np.r_[self.rating_E, rating_X],
        ).ordered()


Change = Callable[[Events, int, np.random.Generator], Events]


@dataclass(frozen=True)
class Plant:
    """One change."""

    change: Change
    names: tuple[str, ...]
    """What a report may call it: beginnings of names."""
    pipeline: bool
    """Whether it is a fault of the pipeline."""
    generator: str | None = None
    """A drift of `ss4rec data synth` instead of a change of the events, as `SIGNAL=SIZE`."""
    twice: bool = False
    """Whether it needs an archive of twice the users."""
    second_file: bool = False
    """Whether the change is in what a second, grown file says of items."""


def daily(events: Events) -> Events:
    """Give the events a rhythm: most of them in the evening and at weekends. Their order stays."""
    week_E, within_E = np.divmod(events.time_E, WEEK_S)
    hours = np.arange(7 * 24)
    weight = (1 + 0.9 * np.sin(2 * np.pi * (hours % 24 - 13) / 24)) * np.where(hours // 24 >= 5, 1.6, 1.0)
    edges = np.r_[0, np.cumsum(weight) / weight.sum()] * WEEK_S
    warped_E = np.interp(within_E, edges, np.arange(len(edges)) * HOUR_S)
    return replace(events, time_E=(week_E * WEEK_S + warped_E).astype(np.int64)).ordered()


def _later(events: Events, from_s: int) -> np.ndarray:
    return events.time_E >= from_s


def none(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Change nothing."""
    return events


def more_stars(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Each user gives .2 star more on average: two of five ratings are half a star higher."""
    more_E = _later(events, from_s) & (rng.random(len(events.user_E)) < 0.4)
    return replace(events, rating_E=np.clip(events.rating_E + 0.5 * more_E, 0.5, 5.0))


def comedies_gone(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Nobody rates a comedy any more."""
    comedy = [item for item, genres in events.genres.items() if "Comedy" in genres]
    return events.keep(~(_later(events, from_s) & np.isin(events.item_E, comedy)))


def copies(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """150 copies of one user, within a month of the step."""
    inside_E = (events.time_E >= from_s) & (events.time_E < from_s + 30 * DAY_S)
    users, counts = np.unique(events.user_E[inside_E], return_counts=True)
    copied_E = inside_E & (events.user_E == users[np.argsort(-counts)[len(counts) // 20]])
    first = int(events.user_E.max()) + 1
    size = int(copied_E.sum())
    parts = (np.tile(part[copied_E], 150) for part in (events.item_E, events.time_E, events.rating_E))
    return events.append(np.repeat(np.arange(first, first + 150), size), *parts)


def clock(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """The clock is eight hours late."""
    return replace(events, time_E=events.time_E + 8 * HOUR_S * _later(events, from_s)).ordered()


def minutes(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Seconds are cut off."""
    return replace(events, time_E=np.where(_later(events, from_s), events.time_E // 60 * 60, events.time_E))


def twice(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Each event is logged twice."""
    later_E = _later(events, from_s)
    return events.append(
        *(part[later_E] for part in (events.user_E, events.item_E, events.time_E, events.rating_E))
    )


def new_users(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Twice as many users join: the second half of an archive of twice the size joins from then on alone."""
    first = np.flatnonzero(np.r_[True, np.diff(events.user_E) != 0])
    users, joined = events.user_E[first], events.time_E[first]
    early = users[(users > np.median(users)) & (joined < from_s)]
    return events.keep(~np.isin(events.user_E, early))


def lost(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """60 % of the events are lost."""
    return events.keep(~(_later(events, from_s) & (rng.random(len(events.user_E)) < 0.6)))


def noise(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """30 % of the stars are drawn at random."""
    noisy_E = _later(events, from_s) & (rng.random(len(events.user_E)) < 0.3)
    return replace(events, rating_E=np.where(noisy_E, rng.integers(1, 11, len(noisy_E)) / 2, events.rating_E))


def shuffled_ids(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Half of the items get one another's ids."""
    items = np.array(sorted(events.titles))
    half = rng.permutation(items)[: len(items) // 2]
    table = dict(zip(half.tolist(), rng.permutation(half).tolist(), strict=True))
    other_E = np.array([table.get(item, item) for item in events.item_E.tolist()])
    return replace(events, item_E=np.where(_later(events, from_s), other_E, events.item_E))


def off_by_one(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """Each id is one too high."""
    return replace(events, item_E=events.item_E + _later(events, from_s))


def labels_lost(events: Events, from_s: int, rng: np.random.Generator) -> Events:
    """The second file has no genres for half of its items."""
    bare = set(rng.permutation(sorted(events.genres))[: len(events.genres) // 2].tolist())
    kept = {item: "(no genres listed)" if item in bare else text for item, text in events.genres.items()}
    return replace(events, genres=kept)


PLANTS = {
    "stars +.2": Plant(more_stars, ("stars",), False),
    "popularity": Plant(none, ("what is popular",), False, generator="popularity=1.0"),
    "comedies gone": Plant(comedies_gone, ("genre gone: Comedy",), False),
    "150 copies": Plant(copies, ("identical users",), True),
    "clock +8 h": Plant(clock, ("clock moved by +8 h",), True),
    "full minutes": Plant(minutes, ("times rounded to minutes",), True),
    "logged twice": Plant(twice, ("events logged twice",), True),
    "new users doubled": Plant(new_users, ("new users",), False, twice=True),
    "60 % lost": Plant(lost, ("events lost",), True),
    "label noise": Plant(noise, ("label noise",), True),
    "half of ids shuffled": Plant(shuffled_ids, ("item ids mixed up",), True),
    "ids off by one": Plant(off_by_one, ("item ids mixed up",), True),
    "genre labels lost": Plant(labels_lost, ("genre labels lost",), True, second_file=True),
    "what follows what": Plant(none, ("what follows what",), False, generator="transitions=0.6"),
}
NONE = Plant(none, (), False)


def second(day: str) -> int:
    """Return the first second of a day, UTC."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
