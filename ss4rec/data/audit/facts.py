"""What an audit finds out about a prepared folder: plain numbers, each with its meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """How much there is."""

    users: int
    items: int
    events: int
    rows_read: int
    """Rows of the source."""
    rows_dropped: int
    """Rows that filters left out, or that could not be used."""
    density: float
    """Events over users times items."""
    events_an_item: float
    events_a_user: float


@dataclass(frozen=True)
class Lengths:
    """Events of a user."""

    p10: float
    median: float
    p90: float
    p99: float
    most: int
    longest_share: float
    """Share of all events that the longest user has."""
    histogram: tuple[tuple[int, int], ...]
    """(fewest events, users): users from this many events to just below twice as many."""


@dataclass(frozen=True)
class Times:
    """Times, and gaps between consecutive events of a user."""

    first_s: int
    last_s: int
    """Unix seconds."""
    step_s: int
    """Step that nearly all times keep: 1, 60, 3,600 or 86,400 seconds."""
    gaps: int
    median_gap_s: float
    zero_share: float
    """Gaps of 0 s: events of one user in the same second."""
    histogram: tuple[tuple[str, int], ...]
    """(length of the gap in words, gaps)."""


@dataclass(frozen=True)
class Ties:
    """What the order of events in one second gives away."""

    pairs: int
    """Neighbouring events of one user and second that were looked at."""
    frequent: int
    """Of these, pairs of items that occur ten times or more."""
    usual_order: float
    """Share of the frequent ones in their usual order."""
    by_chance: float
    """The same share where a fair coin decides the order."""
    ascending: float
    """Share of pairs of different items in ascending order of their ids."""

    @property
    def given_away(self) -> float:
        """How far the order is from a coin's: 0 tells nothing, 1 everything."""
        room = 1.0 - self.by_chance
        return max(0.0, (self.usual_order - self.by_chance) / room) if self.frequent and room > 0 else 0.0


@dataclass(frozen=True)
class Repeats:
    """Events that come again."""

    share: float
    """Events on an item that the user had before."""
    at_once: float
    """Events on the same item as the user's event just before."""
    duplicates: float
    """Events with user, item and second of an earlier one."""


@dataclass(frozen=True)
class Copies:
    """Users who are no people."""

    least_events: int
    """Histories of at least so many events are compared."""
    compared: int
    """Users with such a history."""
    users: int
    """Users who have the same items in the same order as somebody else."""
    groups: int
    largest: int
    """Users of the largest group."""
    example: tuple[str, ...]
    """Ids of a few users of that group, as in the source."""
    clockwork: int
    """Users whose pauses are all equally long."""


@dataclass(frozen=True)
class Hole:
    """Periods in which next to nothing happened."""

    first: str
    last: str
    """Days (UTC)."""
    usual: int
    """Events that periods nearby have in the middle."""


@dataclass(frozen=True)
class Jump:
    """A day from which there is much more, or much less."""

    day: str
    factor: float
    """Events of a period after it over events of a period before."""


@dataclass(frozen=True)
class Volume:
    """Events by period."""

    days: int
    """Length of a period."""
    starts: tuple[str, ...]
    """First day (UTC) of each period."""
    events: tuple[int, ...]
    core: tuple[int, int]
    """Periods, from and up to, between which nearly all events lie; holes and jumps are looked for there."""
    thin_share: float
    """Share of the time outside of the core."""
    holes: tuple[Hole, ...]
    jumps: tuple[Jump, ...]


@dataclass(frozen=True)
class NextDay:
    """A model that is trained each night and asked the next day: events of the later half of the data."""

    events: int
    cold_items: float
    """Share of these events on an item that had no event before the day."""
    cold_items_of_known: float
    """The same, among users who had an event before the day."""
    new_users: float
    """Share of these events by a user who had no event before the day."""
    by_day: tuple[tuple[str, int, float], ...]
    """(day, events, share on items without an event before it), all days that have events."""


@dataclass(frozen=True)
class Head:
    """How far a few items take all."""

    top_1: float
    """Share of all events on the most popular 1 % of the items."""
    top_10: float
    gini: float
    """0 where all items are equally popular, near 1 where a few take all."""
    rare_items: float
    """Share of items with fewer than 5 events."""
    curve: tuple[tuple[float, float], ...]
    """(share of items, most popular first; share of events)."""


@dataclass(frozen=True)
class Division:
    """What a protocol makes of the data."""

    protocol: str
    about: str
    """What the protocol does, in words."""
    training_events: int
    targets: int
    cold_targets: float
    """Share of test targets whose item never trains: misses whatever the model."""
    cold_users: float
    """Share of users with test events of whom nothing trains: a model meets them for the first time."""
    unranked_users: float
    """Share of users with test events who cannot be ranked, for they have no history before any of these."""
    future_training: float
    """Share of training events on a later day than the target, on average over targets."""
    future_items: float
    """Share of test targets whose item is known from later events only."""
    in_history: float
    """Share of test targets whose item the user had before."""
    twins: float
    """Share of test targets with a copy (user, item, second) in the history."""
    core_looked_ahead: bool
    """Whether a k-core was counted over events after the cut."""


@dataclass(frozen=True)
class Reach:
    """What simple scorers reach on the test targets of some users."""

    users: int
    """Users who were ranked."""
    events: int
    """Training events that were counted."""
    seen: str
    """Whether items of the history stay in the ranking."""
    hr10: tuple[tuple[str, float], ...]
    """(scorer, HR@10)."""
    ndcg10: tuple[tuple[str, float], ...]
    """(scorer, NDCG@10)."""
    ties_hashed: float | None
    """NDCG@10 of the Markov chain with events of one second in the order of a hash; None where hardly any are."""


@dataclass(frozen=True)
class Facts:
    """All of it."""

    name: str
    item_columns: tuple[str, ...]
    """Columns about items that were brought (`--item-features`)."""
    sizes: Sizes
    lengths: Lengths
    times: Times
    ties: Ties
    repeats: Repeats
    copies: Copies
    volume: Volume
    next_day: NextDay
    head: Head
    division: Division
    reach: Reach
