"""The page of an audit: pictures, lights with their rules, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from ss4rec.data.audit.facts import Facts
from ss4rec.data.audit.volume import day_text
from ss4rec.io.moments import DAY_S
from ss4rec.report import Axis, Bar, Cell, Frame, Line, Mark, charts, render

if TYPE_CHECKING:
    from ss4rec.data.audit.audit import Audit

_TONES = {"good": "good", "warn": "warn", "bad": "severe"}
_ORDER = ("bad", "warn", "good")
_WIDE = Frame(width=700, height=210, left=56)
_LEAST_EVENTS = 30
"""Events of a day below which its share of cold events says nothing."""


def audit_page(found: Audit) -> str:
    """Return the page."""
    facts = found.facts
    ordered = sorted(found.lights, key=lambda light: _ORDER.index(light.tone))
    return render(
        "ss4rec.data.audit",
        "audit.html.j2",
        name=facts.name,
        headline=found.headline,
        charts=[
            _volume(facts),
            _lengths(facts),
            _gaps(facts),
            _head(facts),
            *_new_items(facts),
            _reach(facts),
        ],
        lights=[
            [Cell(light.topic, _TONES[light.tone]), light.found, light.rule, light.advice]
            for light in ordered
        ],
        division=facts.division,
        choices=[[choice.field, choice.value, choice.reason] for choice in found.choices],
        configuration=found.configuration,
        fields=[(name, str(value)) for name, value in found.fields.items()],
        numbers=numbers(facts),
    )


def numbers(facts: Facts) -> list[tuple[str, str]]:
    """Return the facts that no light shows, as pairs of name and text."""
    sizes, lengths, division, reach = facts.sizes, facts.lengths, facts.division, facts.reach
    return [
        ("rows of the source", f"{sizes.rows_read:,}, of which {sizes.rows_dropped:,} were dropped"),
        (
            "time",
            f"{day_text(facts.times.first_s // DAY_S)} to {day_text(facts.times.last_s // DAY_S)} (UTC)",
        ),
        (
            "events a user",
            f"mean {sizes.events_a_user:.1f}; 10 % have at most {lengths.p10:g}, half {lengths.median:g}, 90 % "
            f"{lengths.p90:g}, 99 % {lengths.p99:g}",
        ),
        ("Gini index of items", f"{facts.head.gini:.2f}"),
        ("histories compared", f"{facts.copies.compared:,} of at least {facts.copies.least_events} events"),
        ("training events", f"{division.training_events:,}, {division.protocol}"),
        ("test targets", f"{division.targets:,}; {division.in_history:.1%} of them had before"),
        (
            "simple scorers",
            f"{reach.events:,} training events, {reach.users:,} users, seen items {reach.seen}, target time unknown",
        ),
    ]


def _volume(facts: Facts) -> Markup:
    volume = facts.volume
    period = {1: "day", 7: "week", 28: "four weeks"}[volume.days]
    bad = {place for hole in volume.holes for place in _between(volume.starts, hole.first, hole.last)}
    marks = [
        Mark(place, events, "severe" if place in bad else "s1", f"{volume.starts[place]}: {events:,} events")
        for place, events in enumerate(volume.events)
    ]
    if bad:
        most = max(volume.events)
        marks += [Mark(place, most, "severe faint", f"hole: {volume.starts[place]}") for place in sorted(bad)]
    axis = Axis.of(volume.starts)
    about = f"by {period}; {len(volume.holes)} holes, {len(volume.jumps)} jumps"
    return charts.columns("Volume", about, marks, x=axis, frame=_WIDE, fraction=0.8)


def _between(starts: tuple[str, ...], first: str, last: str) -> range:
    return range(starts.index(first), starts.index(last) + 1)


def _lengths(facts: Facts) -> Markup:
    rows = facts.lengths.histogram
    names = [f"{least:,}+" for least, _ in rows]
    marks = [
        Mark(place, users, "s1", f"{least:,} to {2 * least - 1:,} events: {users:,} users")
        for place, (least, users) in enumerate(rows)
    ]
    return charts.columns("Lengths", "users by events", marks, x=Axis.of(names))


def _gaps(facts: Facts) -> Markup:
    total = max(1, facts.times.gaps)
    bars = [
        Bar(name, gaps / total, f"{gaps / total:.1%}", "warn" if name == "0 s" else "s1", f"{gaps:,} gaps")
        for name, gaps in facts.times.histogram
    ]
    return charts.bars("Gaps", "between events of a user", bars)


def _head(facts: Facts) -> Markup:
    points = [(100 * items, 100 * events) for items, events in facts.head.curve]
    return charts.lines(
        "Popularity",
        "% of events on the most popular % of items",
        [Line("events", points, "s1")],
        x=Axis(min(points[0][0], 1.0), 100.0, log=True),
        y=Axis(0.0, 100.0),
    )


def _new_items(facts: Facts) -> list[Markup]:
    """Return the chart of new items, or none where there is no day to compare."""
    days = [(day, events, share) for day, events, share in facts.next_day.by_day if events >= _LEAST_EVENTS]
    if len(days) < 2:
        return []
    points = [(float(place), 100 * share) for place, (_, _, share) in enumerate(days)]
    chart = charts.lines(
        "Next day",
        "% of a day's events on items without an earlier day",
        [Line("new items", points, "s2")],
        x=Axis.of([day for day, _, _ in days]),
        y=Axis(0.0, 100.0),
    )
    return [chart]


def _reach(facts: Facts) -> Markup:
    bars = [Bar(name, value, f"{value:.3f}", "s3") for name, value in facts.reach.hr10]
    return charts.bars("What is easy", f"HR@10, {facts.division.protocol}", bars)
