"""Traffic lights: what is right, what is worth a look, what spoils a result; each with its rule and what to do.

A light's rule is made from the same numbers that decide it, so that text and decision cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ss4rec.auto.choose import MANY_REPEATS, SOME_REPEATS, SPARSE
from ss4rec.data.audit.facts import Facts

Tone = Literal["good", "warn", "bad"]
COLOURS: dict[Tone, str] = {"good": "green", "warn": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Light:
    """One light."""

    topic: str
    tone: Tone
    """`good` is green, `warn` yellow, `bad` red."""
    found: str
    """What was seen."""
    rule: str
    """What decides the colour."""
    advice: str = ""
    """What follows; empty where nothing does."""


@dataclass(frozen=True)
class Limit:
    """A rule with two thresholds."""

    what: str
    """What is counted."""
    good: float
    """Up to here the light is green (from here on, if `least`)."""
    warn: float
    """Up to here (from here on) it is yellow."""
    least: bool = False
    """Whether larger is better."""
    share: bool = True
    """Whether numbers are shares, shown in percent."""

    @property
    def rule(self) -> str:
        """The rule in words."""
        way = "from {} on" if self.least else "up to {}"
        texts = [self._text(value) for value in (self.good, self.warn)]
        good, warn = (
            "none" if text in ("0%", "0") and not self.least else way.format(text) for text in texts
        )
        return f"{self.what}: green {good}" + (
            f", yellow {warn}" if self.warn != self.good else ", else yellow"
        )

    def tone(self, value: float) -> Tone:
        """Return the colour of a value. Two equal thresholds make no red."""
        sign = -1 if self.least else 1
        if sign * value <= sign * self.good:
            return "good"
        return "warn" if self.warn == self.good or sign * value <= sign * self.warn else "bad"

    def light(self, topic: str, value: float, found: str, advice: str) -> Light:
        """Return the light of a value."""
        tone = self.tone(value)
        return Light(topic, tone, found, self.rule, "" if tone == "good" else advice)

    def _text(self, value: float) -> str:
        return f"{100 * value:.4g}%" if self.share else f"{value:,.10g}"


EVENTS = Limit("events", 100_000, 10_000, least=True, share=False)
PER_ITEM = Limit("events an item", SPARSE, 5, least=True, share=False)
LENGTH = Limit("events of the user in the middle", 10, 5, least=True, share=False)
LONGEST = Limit("share of all events by the longest user", 0.005, 0.02)
STEP = Limit("step of the times in seconds", 1, 60, share=False)
EQUAL = Limit("gaps of 0 s", 0.01, 0.1)
ORDER = Limit("order of equal times, from 0% (a coin's) to 100% (always the same)", 0.1, 0.4)
DUPLICATES = Limit("events with user, item and second of an earlier one", 0.001, 0.01)
REPEATED = Limit("events on an item that the user had before", SOME_REPEATS, SOME_REPEATS)
COPIED = Limit("users with the very history of another (10 events or more)", 0.0005, 0.005)
CLOCKWORK = Limit("users with 20 or more pauses, all equally long", 0.0005, 0.005)
HOLES = Limit("stretches with a tenth or less of what is usual around them", 0, 2, share=False)
JUMPS = Limit("places where events triple or fall to a third", 0, 2, share=False)
THIN = Limit("time outside of the stretch that has 99% of the events", 0.25, 0.5)
COLD_ITEMS = Limit("test targets whose item never trains", 0.01, 0.1)
COLD_USERS = Limit("test users of whom nothing trains", 0.05, 0.25)
NEXT_DAY = Limit("next day's events on items without an earlier day", 0.02, 0.1)
FUTURE = Limit("training events on a later day than the target", 0.01, 0.1)
FUTURE_ITEMS = Limit("test targets whose item is known from later events only", 0.001, 0.01)
TWINS = Limit("test targets with a copy in the history", 0.001, 0.01)
IN_HISTORY = Limit(
    "test targets that the history has, while its items are left out of the ranking", 0.005, 0.05
)
HEAD = Limit("events on the most popular 1% of the items", 0.4, 0.8)
EASY = Limit("HR@10 of the best simple scorer", 0.3, 0.6)
GAIN = Limit(
    "NDCG@10 of the Markov chain over that of the best popularity", 1.2, 1.0, least=True, share=False
)


def lights(facts: Facts) -> list[Light]:
    """Return all lights, in the order of the page."""
    return [
        *_amount(facts),
        *_moments(facts),
        *_people(facts),
        *_volume(facts),
        *_split(facts),
        *_simple(facts),
    ]


def _amount(facts: Facts) -> Iterator[Light]:
    """Yield the lights on how much data there is."""
    sizes, lengths = facts.sizes, facts.lengths
    yield EVENTS.light(
        "size",
        sizes.events,
        f"{sizes.events:,} events of {sizes.users:,} users on {sizes.items:,} items",
        "too few to tell two models apart: expect wide intervals, and train several seeds",
    )
    yield PER_ITEM.light(
        "density",
        sizes.events_an_item,
        f"{sizes.events_an_item:.1f} events an item, {sizes.density:.3%} of all pairs",
        "items are learned by heart before they are understood: strong regularisation (`--preset auto` does it), a "
        "larger --k-core, or columns about items (--item-features)",
    )
    yield LENGTH.light(
        "lengths",
        lengths.median,
        f"{lengths.median:g} events in the middle, 90% have at most {lengths.p90:g}, the longest {lengths.most:,}",
        "histories are short: a Markov chain is a strong rival, and long windows cost without use",
    )
    yield LONGEST.light(
        "longest user",
        lengths.longest_share,
        f"one user has {lengths.longest_share:.2%} of all events",
        "look at this user: a test account or a robot trains more than anybody else",
    )


def _moments(facts: Facts) -> Iterator[Light]:
    """Yield the lights on times: their step, equal ones and gaps."""
    times, ties = facts.times, facts.ties
    words = {1: "seconds", 60: "whole minutes", 3_600: "whole hours", 86_400: "whole days"}[times.step_s]
    yield STEP.light(
        "resolution",
        times.step_s,
        f"times are {words}; the gap in the middle is {times.median_gap_s:,.10g} s",
        "gaps say little below this step: compare with `--set data.target_time=false`, and expect no gain from exact "
        "pauses",
    )
    yield EQUAL.light(
        "equal times",
        times.zero_share,
        f"{times.zero_share:.1%} of the gaps are 0 s",
        "which of these events came first is not known; next-item figures depend on how the file is sorted",
    )
    told = (
        f"{ties.frequent:,} of {ties.pairs:,} pairs are frequent" if ties.frequent else "no pair is frequent"
    )
    usual = (
        f", {ties.usual_order:.1%} of them in their usual order (a coin: {ties.by_chance:.1%})"
        if ties.frequent
        else ""
    )
    ascending = f"; {ties.ascending:.0%} by ascending id" if ties.pairs else ""
    yield ORDER.light(
        "order of equal times",
        # What hardly ever happens cannot spoil a result.
        ties.given_away if times.zero_share > EQUAL.good else 0.0,
        told + usual + ascending,
        "the file's order gives the next item away: prepare with `--ties hash`, or set protocol.ties=hash",
    )


def _people(facts: Facts) -> Iterator[Light]:
    """Yield the lights on users: repeated events, copies and such as are no people."""
    repeats, copies = facts.repeats, facts.copies
    # Rows that are dropped count as bad, and prepare refuses more than one in a hundred.
    share = f" --max-bad-share {math.ceil(100 * repeats.duplicates + 0.5) / 100:g}"
    yield DUPLICATES.light(
        "duplicates",
        repeats.duplicates,
        f"{repeats.duplicates:.2%} of the events repeat user, item and second",
        f"logged twice, or one row for each piece: prepare with `--repeats drop{share}`",
    )
    habits = " and habits pay" if repeats.share >= MANY_REPEATS else ""
    yield REPEATED.light(
        "repeats",
        repeats.share,
        f"{repeats.share:.1%} of the events are on an item that the user had before, {repeats.at_once:.1%} at once",
        f"say whether a repeat is a hit: with protocol.seen=kept it is{habits}, with excluded it never is; beside a "
        "model show `own recent`",
    )
    example = f" (as {', '.join(copies.example)})" if copies.example else ""
    yield COPIED.light(
        "identical histories",
        copies.users / max(1, facts.sizes.users),
        f"{copies.users:,} users in {copies.groups:,} groups, the largest of {copies.largest:,}{example}",
        "robots or copied accounts: leave these users out of the source, or they are in training and test",
    )
    yield CLOCKWORK.light(
        "clockwork",
        copies.clockwork / max(1, facts.sizes.users),
        f"{copies.clockwork:,} users whose pauses are all equally long",
        "no person does that: leave these users out, or find out who made up the times",
    )


def _volume(facts: Facts) -> Iterator[Light]:
    """Yield the lights on events by day: holes and jumps."""
    volume = facts.volume
    period = {1: "day", 7: "week", 28: "four weeks"}[volume.days]
    holes = ", ".join(
        hole.first if hole.first == hole.last else f"{hole.first} to {hole.last}" for hole in volume.holes[:3]
    )
    yield HOLES.light(
        "holes",
        len(volume.holes),
        f"by {period}: {f'{len(volume.holes)} ({holes})' if holes else 'none'}",
        "lost logs look like lost interest: say so to `ss4rec drift --events`, and put no cut in time near them",
    )
    jumps = ", ".join(f"{jump.day} x {jump.factor:.2g}" for jump in volume.jumps[:3])
    yield JUMPS.light(
        "jumps",
        len(volume.jumps),
        f"by {period}: {f'{len(volume.jumps)} ({jumps})' if jumps else 'none'}",
        "two regimes in one file: find out why; a cut in time (`ss4rec data split`) may lie best after the last jump",
    )
    first, last = (volume.starts[place] for place in (volume.core[0], volume.core[1] - 1))
    yield THIN.light(
        "thin ends",
        volume.thin_share,
        f"99% of the events lie in {first} to {last}, {1 - volume.thin_share:.0%} of the time",
        "a few stray events stretch the time: give cuts as dates inside, or prepare with --earliest and --latest",
    )


def _split(facts: Facts) -> Iterator[Light]:
    """Yield the lights on what the protocol ranks."""
    division, day = facts.division, facts.next_day
    known = f"models that read {', '.join(facts.item_columns)} rank them" if facts.item_columns else ""
    columns = known or "bring columns about items (--item-features)"
    yield COLD_ITEMS.light(
        "cold items of the split",
        division.cold_targets,
        f"{division.protocol}: {division.cold_targets:.1%} of {division.targets:,} targets",
        f"no model of ids can reach more than HR {1 - division.cold_targets:.2f}: {columns}, train more often, or test "
        "nearer to the cut",
    )
    yield COLD_USERS.light(
        "cold users of the split",
        division.cold_users,
        f"{division.protocol}: {division.cold_users:.1%} of the users with test events; "
        f"{division.unranked_users:.1%} have no history at all and are not ranked",
        "a model meets them for the first time: report them apart, and show what is popular to those without a history",
    )
    yield NEXT_DAY.light(
        "next day",
        day.cold_items,
        f"{day.cold_items:.1%} of the next day's targets are cold ({day.events:,} events of the later half); "
        f"{day.new_users:.1%} are by new users",
        f"new items all the time: test with a cut in time, train daily or oftener, and {columns}",
    )
    yield FUTURE.light(
        "future in training",
        division.future_training,
        f"{division.protocol}: {division.future_training:.1%} of the training events, on average over targets",
        "figures flatter: report a cut in time too (`--split time-to-split`)",
    )
    yield FUTURE_ITEMS.light(
        "items from the future",
        division.future_items,
        f"{division.protocol}: {division.future_items:.2%} of the targets",
        "the model knows items that did not exist yet: use a cut in time",
    )
    ahead = division.core_looked_ahead
    yield Light(
        "k-core",
        "warn" if ahead else "good",
        f"{'counted over all events, later ones too' if ahead else 'no core looks at later events'}",
        "green if no k-core counts events after the cut",
        "prepare with --k-core 0 and set protocol.core=after, or say that the core was common practice"
        if ahead
        else "",
    )
    yield TWINS.light(
        "target in history",
        division.twins,
        f"{division.twins:.2%} of the targets have a copy (item and second) in their history",
        "training has the very event that is tested: prepare with `--repeats drop`",
    )
    excluded = facts.reach.seen == "excluded"
    yield IN_HISTORY.light(
        "targets left out",
        division.in_history if excluded else 0.0,
        f"{division.in_history:.1%} of the targets are items that the user had before; they are {facts.reach.seen}",
        "these targets are ranked although other seen items are not; set protocol.seen=kept, or drop such targets",
    )


def _simple(facts: Facts) -> Iterator[Light]:
    """Yield the lights on what simple rules reach."""
    reach, head = facts.reach, facts.head
    yield HEAD.light(
        "popularity head",
        head.top_1,
        f"the top 1% of the items have {head.top_1:.0%} of the events, the top 10% {head.top_10:.0%}; "
        f"{head.rare_items:.0%} of the items have fewer than 5",
        "show lists by popularity (`ss4rec show`: deciles, coverage), and most popular beside every model",
    )
    name, best = max(reach.hr10, key=lambda pair: pair[1])
    hashed = (
        f"; with equal times hashed the chain has NDCG@10 {reach.ties_hashed:.3f} instead of "
        f"{dict(reach.ndcg10)['Markov chain']:.3f}"
        if reach.ties_hashed is not None
        else ""
    )
    yield EASY.light(
        "what is easy",
        best,
        f"HR@10 of {reach.users:,} users: {', '.join(f'{n} {v:.3f}' for n, v in reach.hr10)}",
        f"{name} does it alone: a model has to beat that, and a leak is likely (see above)",
    )
    ndcg = dict(reach.ndcg10)
    popular = max(value for name, value in ndcg.items() if "popular" in name)
    yield GAIN.light(
        "does order matter",
        ndcg["Markov chain"] / popular if popular else float("inf") if ndcg["Markov chain"] else 0.0,
        f"NDCG@10: Markov chain {ndcg['Markov chain']:.3f}, best popularity {popular:.3f}{hashed}",
        "the last item tells little more than popularity: a sequence model may not be worth its cost here",
    )
