"""SVG charts, each a `<figure>` that is readable at 340 pixels.

Every chart has an accessible name, and values under the mouse: tips of marks and bars, and in a chart of few lines the
values of all of them wherever the pointer is. Colours come from tones (see `ss4rec.report`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from ss4rec.report.axis import Axis, label
from ss4rec.report.parts import TEXT_PX, Bar, Frame, Line, Mark, element, join, shortened

FEW_LINES = 8
"""Up to so many lines have a key, and are read together at a place; more have a tip each."""
FRAME = Frame()


def lines(
    title: str,
    about: str,
    rows: Sequence[Line],
    *,
    x: Axis | None = None,
    y: Axis | None = None,
    events: Sequence[tuple[float, str]] = (),
    frame: Frame = FRAME,
) -> Markup:
    """Return a chart of lines, with bands where they have them; later lines lie on top.

    Args:
        title: name of the chart.
        about: a few words after it.
        rows: the lines; empty ones are left out.
        x: axis; whole numbers around the points if None.
        y: axis; around points and bands if None.
        events: places on x with their names, drawn as upright broken lines.
        frame: size.
    """
    rows = [row for row in rows if row.points]
    x = x or Axis.around([a for row in rows for a, _ in row.points], whole=True)
    y = y or Axis.around(
        [b for row in rows for _, b in row.points] + [b for row in rows for ends in row.band for b in ends]
    )
    few = len(rows) <= FEW_LINES
    parts = [frame.axes(x, y)]
    for row in rows:
        places = [(frame.x(x, a), frame.y(y, b)) for a, b in row.points]
        if row.band:
            above = [(at, frame.y(y, high)) for (at, _), (_, high) in zip(places, row.band, strict=True)]
            below = [(at, frame.y(y, low)) for (at, _), (low, _) in zip(places, row.band, strict=True)]
            parts.append(
                element("polygon", class_=f"band {row.tone}", points=_path([*above, *reversed(below)]))
            )
        line = element("polyline", class_=f"line {row.tone} {row.style}".rstrip(), points=_path(places))
        end = element("circle", class_=f"mark {row.tone}", cx=places[-1][0], cy=places[-1][1], r=2)
        parts.append(element("g", line, end, tip="" if few else row.name))
    parts += [_event(frame, frame.x(x, at), name) for at, name in events]
    if few:
        parts += _readings(rows, x, frame, dict(events))
    keys = [(row.tone, row.name) for row in rows if row.name] if few else []
    return figure(title, about, _svg(title, parts, frame), keys)


def scatter(
    title: str,
    about: str,
    marks: Sequence[Mark],
    *,
    x: Axis | None = None,
    y: Axis | None = None,
    steps: Sequence[tuple[float, float]] = (),
    diagonal: bool = False,
    frame: Frame = FRAME,
) -> Markup:
    """Return a chart of points, with intervals where they have them.

    Args:
        title: name of the chart.
        about: a few words after it.
        marks: the points; later ones lie on top.
        x: axis; around the marks if None.
        y: axis; around the marks if None.
        steps: a stepped line, such as the best so far.
        diagonal: whether to draw the line x = y.
        frame: size.
    """
    x = x or Axis.around([mark.x for mark in marks])
    y = y or Axis.around([v for m in marks for v in (m.y, m.low, m.high) if v is not None])
    parts = [frame.axes(x, y)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        ends = [(frame.x(x, value), frame.y(y, value)) for value in (low, high)]
        parts.append(element("polyline", class_="line muted dashed", points=_path(ends)))
    if steps:
        places = [(frame.x(x, a), frame.y(y, b)) for a, b in steps]
        path = f"M{places[0][0]:.1f},{places[0][1]:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in places[1:])
        parts.append(element("path", class_="line s1", d=path))
    for mark in marks:
        at = frame.x(x, mark.x)
        parts.append(_whisker(frame, y, mark, at))
        parts.append(
            element("circle", class_=f"mark {mark.tone}", cx=at, cy=frame.y(y, mark.y), r=3.5, tip=mark.tip)
        )
    return figure(title, about, _svg(title, parts, frame))


def columns(
    title: str,
    about: str,
    marks: Sequence[Mark],
    *,
    x: Axis | None = None,
    y: Axis | None = None,
    fraction: float = 0.7,
    outline: Sequence[tuple[float, float]] = (),
    keys: Sequence[tuple[str, str]] = (),
    frame: Frame = FRAME,
) -> Markup:
    """Return a column from zero, up or down, for each mark.

    Args:
        title: name of the chart.
        about: a few words after it.
        marks: the columns.
        x: axis; whole numbers around the marks if None.
        y: axis; from zero around the marks if None.
        fraction: width of a column as a fraction of the distance of 1 on x.
        outline: a second histogram (x, y), drawn as a line across the columns' tops.
        keys: tones and names of a key.
        frame: size.
    """
    x = x or Axis.around([end for mark in marks for end in (mark.x - 0.5, mark.x + 0.5)], whole=True)
    heights = [v for m in marks for v in (m.y, m.low, m.high) if v is not None]
    y = y or Axis.around(heights + [height for _, height in outline], zero=True)
    width = min(26.0, fraction * abs(frame.x(x, 1.0) - frame.x(x, 0.0)))
    zero = frame.y(y, max(y.low, 0.0))
    parts = [frame.axes(x, y)]
    for mark in marks:
        top, at = frame.y(y, mark.y), frame.x(x, mark.x)
        size = {"x": at - width / 2, "y": min(top, zero), "width": width, "height": abs(zero - top)}
        parts.append(element("rect", class_=f"mark {mark.tone}", tip=mark.tip, **size))
        parts.append(_whisker(frame, y, mark, at))
    if outline:
        places = [(frame.x(x, a), frame.y(y, b)) for a, b in outline]
        half = abs(frame.x(x, 0.5) - frame.x(x, 0.0))
        steps = [point for at, top in places for point in ((at - half, top), (at + half, top))]
        parts.append(element("polyline", class_="line strong thin", points=_path(steps)))
    return figure(title, about, _svg(title, parts, frame), keys)


def bars(
    title: str,
    about: str,
    rows: Sequence[Bar],
    *,
    axis: Axis | None = None,
    keys: Sequence[tuple[str, str]] = (),
    width: int = FRAME.width,
    letters: tuple[int, int] | None = None,
) -> Markup:
    """Return a bar across the chart for each row, from zero to the right or to the left.

    Args:
        title: name of the chart.
        about: a few words after it.
        rows: the bars, from top to bottom; each has its label on the left and its text at the right edge.
        axis: shared by several charts; from zero around values and intervals if None.
        keys: tones and names of a key.
        width: width of the chart.
        letters: room for labels and texts, in letters; as they need if None. Charts that are to be compared by eye need
            the same room as well as the same axis.
    """
    axis = axis or Axis.around(
        [v for r in rows for v in (r.value, r.low, r.high) if v is not None], zero=True
    )
    longest = [
        max((len(text) for text in texts), default=0)
        for texts in zip(*((r.label, r.text) for r in rows), strict=True)
    ]
    label_letters, text_letters = letters or longest or (0, 0)
    names_px = min(0.42 * width, TEXT_PX * label_letters + 14)
    texts_px = TEXT_PX * text_letters + 6
    start, end, pitch = names_px + 4, width - texts_px - 4, 20
    zero = axis.at(max(axis.low, 0.0), start, end)
    parts = [element("line", class_="grid", x1=zero, x2=zero, y1=2, y2=6 + pitch * len(rows))]
    for index, row in enumerate(rows):
        y, at = 4 + index * pitch, axis.at(row.value, start, end)
        name = shortened(row.label, names_px)
        parts.append(
            element(
                "text",
                name,
                x=names_px,
                y=y + 11,
                text_anchor="end",
                tip="" if name == row.label else row.label,
            )
        )
        size = {"x": min(at, zero), "y": y, "width": max(abs(at - zero), 0.5), "height": 15}
        parts.append(element("rect", class_=f"mark {row.tone}", tip=row.tip, **size))
        if row.low is not None and row.high is not None:
            left, right = axis.at(row.low, start, end), axis.at(row.high, start, end)
            parts.append(element("line", class_="whisker", x1=left, x2=right, y1=y + 7.5, y2=y + 7.5))
        if row.text:
            parts.append(element("text", row.text, x=width - 2, y=y + 11, text_anchor="end"))
    frame = Frame(width=width, height=8 + pitch * len(rows))
    return figure(title, about, _svg(title, parts, frame), keys)


def parallel(
    title: str,
    about: str,
    axes: Sequence[tuple[str, Axis]],
    rows: Sequence[tuple[str, str, Sequence[float | None]]],
) -> Markup:
    """Return parallel coordinates, an axis a row from top to bottom, which a narrow screen can show.

    Args:
        title: name of the chart.
        about: a few words after it.
        axes: name and axis, from top to bottom.
        rows: (tone, tip, value by axis) of each line; None leaves a gap. Later rows lie on top.
    """
    pitch, left, right = 54, 14, FRAME.width - 14
    at = [26 + pitch * index for index in range(len(axes))]
    parts = []
    for tone, tip, values in rows:
        places = [
            (axis.at(value, left, right), float(y))
            for (_, axis), y, value in zip(axes, at, values, strict=True)
            if value is not None
        ]
        parts.append(element("polyline", class_=f"line {tone} faint", points=_path(places), tip=tip))
    for (name, axis), y in zip(axes, at, strict=True):
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=y, y2=y))
        parts.append(element("text", name, class_="name", x=left, y=y - 9))
        for value, text in axis.ticks():
            half = TEXT_PX * len(text) / 2
            place = min(max(axis.at(value, left, right), half), FRAME.width - half)
            parts.append(element("text", text, class_="tick", x=place, y=y + 12, text_anchor="middle"))
    return figure(title, about, _svg(title, parts, Frame(height=46 + pitch * (len(axes) - 1))))


def small_multiples(title: str, about: str, panels: Sequence[Markup]) -> Markup:
    """Return charts of one kind side by side; give all of them the same axis, so that they can be compared."""
    return element(
        "section",
        element("p", element("b", title), " ", about),
        element("div", *panels, class_="charts multiples"),
        class_="multiples",
    )


def sparkline(values: Sequence[float], name: str, *, tone: str = "s1") -> Markup:
    """Return a line of the height of text, for a table's cell; `name` says what it shows."""
    frame = Frame(width=90, height=20, left=2, right=4, top=3, bottom=3)
    x, y = Axis(0.0, max(len(values) - 1.0, 1.0)), Axis.around(values)
    places = [(frame.x(x, index), frame.y(y, value)) for index, value in enumerate(values)]
    if not places:
        return Markup("")
    line = element("polyline", class_=f"line {tone}", points=_path(places))
    end = element("circle", class_=f"mark {tone}", cx=places[-1][0], cy=places[-1][1], r=2)
    tip = f"{name}: {', '.join(label(value) for value in values)}"
    return element(
        "svg",
        element("g", line, end, tip=tip),
        class_="spark",
        viewBox="0 0 90 20",
        role="img",
        aria_label=name,
    )


def figure(title: str, about: str, content: Markup, keys: Sequence[tuple[str, str]] = ()) -> Markup:
    """Return a captioned figure with a key of (tone, name)."""
    key = join([element("span", name, class_=f"key {tone}") for tone, name in keys])
    return element(
        "figure",
        element(
            "figcaption", element("b", title), " ", about, element("div", key, class_="keys") if keys else ""
        ),
        content,
    )


def _svg(title: str, parts: Sequence[Markup], frame: Frame) -> Markup:
    size = f"0 0 {frame.width} {frame.height}"
    kind = "wide" if frame.width > 400 else None
    drawn = element("svg", *parts, viewBox=size, role="img", aria_label=title, class_=kind)
    return element("div", drawn, class_="scroll") if kind else drawn


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _whisker(frame: Frame, y: Axis, mark: Mark, at: float) -> Markup:
    if mark.low is None or mark.high is None:
        return Markup("")
    return element("line", class_="whisker", x1=at, x2=at, y1=frame.y(y, mark.low), y2=frame.y(y, mark.high))


def _event(frame: Frame, at: float, name: str) -> Markup:
    return element(
        "line", class_="event", x1=at, x2=at, y1=frame.top, y2=frame.height - frame.bottom, tip=name
    )


def _readings(rows: Sequence[Line], x: Axis, frame: Frame, events: dict[float, str]) -> list[Markup]:
    """Return an unseen strip for each place on x, whose tip has the values of all lines there."""
    found: dict[float, list[str]] = {}
    for row in rows:
        for index, (at, value) in enumerate(row.points):
            ends = f" ({label(row.band[index][0])} to {label(row.band[index][1])})" if row.band else ""
            found.setdefault(at, []).append(f"{row.name} {label(value)}{ends}".strip())
    values = sorted(found)
    places = [frame.x(x, value) for value in values]
    middles = [(left + right) / 2 for left, right in itertools.pairwise(places)]
    edges: list[float] = [frame.left, *middles, frame.width - frame.right]
    return [
        element(
            "rect",
            class_="reading",
            x=float(left),
            y=frame.top,
            width=max(float(right - left), 0.5),
            height=frame.height - frame.top - frame.bottom,
            tip="\n".join([x.text(value), *found[value], *([events[value]] if value in events else [])]),
        )
        for value, left, right in zip(values, edges[:-1], edges[1:], strict=True)
    ]
