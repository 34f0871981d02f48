"""Small SVG charts, each readable at 340 pixels: scatter, lines, bars, and parallel coordinates that run downwards."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 30


@dataclass(frozen=True)
class Mark:
    """One trial in a chart."""

    x: float
    y: float
    kind: str
    """CSS class."""
    tip: str


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linearly or by logarithm, or places named categories."""

    low: float
    high: float
    log: bool = False
    names: tuple[str, ...] = ()
    """Categories; their values are 0, 1, ..."""
    whole: bool = False
    """Whether only whole numbers are labelled."""

    @classmethod
    def around(cls, values: Sequence[float], *, log: bool = False, whole: bool = False) -> Axis:
        """Return an axis with a little air around `values`."""
        if not values:
            return cls(0.0, 1.0)
        if log and min(values) > 0:
            return cls(min(values) / 1.1, max(values) * 1.1, log=True)
        air = 0.05 * (max(values) - min(values)) or (1.0 if whole else 0.05 * abs(max(values)) or 0.5)
        return cls(min(values) - air, max(values) + air, whole=whole)

    @classmethod
    def of(cls, names: Sequence[str]) -> Axis:
        """Return an axis of categories."""
        return cls(-0.5, len(names) - 0.5, names=tuple(names))

    def at(self, value: float, start: float, end: float) -> float:
        """Return the pixel of `value` between the pixels `start` and `end`."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.log
            else (self.low, self.high, value)
        )
        return start + (end - start) * (value - low) / (high - low)

    def ticks(self, most: int = 4) -> list[tuple[float, str]]:
        """Return round values inside the axis with their labels."""
        if self.names:
            return [(float(index), name) for index, name in enumerate(self.names)]
        if self.log:
            return self._log_ticks(most)
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (factor * power for factor in (5, 2, 1, 0.5, 0.2, 0.1)):
            found = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            if len(found) >= 3 or (self.whole and step <= 1):
                break
        return [(n * step, _label(n * step)) for n in found]

    def _log_ticks(self, most: int) -> list[tuple[float, str]]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found: list[float] = []
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [
                f * 10.0**p
                for p in range(low, high + 1)
                for f in factors
                if self.low <= f * 10.0**p <= self.high
            ]
            if len(found) >= 2:
                break
        return [(value, _label(value)) for value in found[:: max(1, len(found) // most)]]


def scatter(
    title: str,
    about: str,
    marks: Sequence[Mark],
    x: Axis,
    y: Axis,
    *,
    line: Sequence[tuple[float, float]] = (),
) -> str:
    """Return a chart of points, with a stepped line through `line` if given."""
    to_x, to_y = _scales(x, y)
    parts = [_frame(x, y)]
    if line:
        points = [(to_x(a), to_y(b)) for a, b in line]
        path = f"M{points[0][0]:.1f},{points[0][1]:.1f}" + "".join(f"H{a:.1f}V{b:.1f}" for a, b in points[1:])
        parts.append(f'<path class="best-line" d="{path}"/>')
    parts += [
        f'<circle class="{mark.kind}" cx="{to_x(mark.x):.1f}" cy="{to_y(mark.y):.1f}" r="3.5">'
        f"<title>{html.escape(mark.tip)}</title></circle>"
        for mark in marks
    ]
    return figure(title, about, _svg(title, "".join(parts)))


def lines(title: str, about: str, rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> str:
    """Return a chart of lines over whole numbers; a row is (CSS class, tip, points). Later rows lie on top."""
    points = [point for _, _, row in rows for point in row]
    x, y = Axis.around([a for a, _ in points], whole=True), Axis.around([b for _, b in points])
    to_x, to_y = _scales(x, y)
    parts = [_frame(x, y)]
    for kind, tip, row in rows:
        path = " ".join(f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in row)
        end = f'<circle class="{kind}" cx="{to_x(row[-1][0]):.1f}" cy="{to_y(row[-1][1]):.1f}" r="2"/>'
        parts.append(
            f'<g><title>{html.escape(tip)}</title><polyline class="{kind}" points="{path}"/>{end}</g>'
        )
    return figure(title, about, _svg(title, "".join(parts)))


def columns(title: str, about: str, marks: Sequence[Mark]) -> str:
    """Return a column from zero for each mark, over whole numbers."""
    x = Axis.around([mark.x for mark in marks], whole=True)
    y = Axis(0.0, 1.05 * max(mark.y for mark in marks) or 1.0)
    to_x, to_y = _scales(x, y)
    width = min(12.0, 0.7 * abs(to_x(1.0) - to_x(0.0)))
    parts = [_frame(x, y)]
    parts += [
        f'<rect class="{mark.kind}" x="{to_x(mark.x) - width / 2:.1f}" y="{to_y(mark.y):.1f}" width="{width:.1f}" '
        f'height="{to_y(0.0) - to_y(mark.y):.1f}"><title>{html.escape(mark.tip)}</title></rect>'
        for mark in marks
    ]
    return figure(title, about, _svg(title, "".join(parts)))


def bars(title: str, about: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Return a horizontal bar for each row of (label, value, text at its end)."""
    top, pitch = max(value for _, value, _ in rows) or 1.0, 20
    parts = []
    for index, (label, value, text) in enumerate(rows):
        y, width = 4 + index * pitch, 110 * value / top
        parts.append(
            f'<text x="128" y="{y + 11}" text-anchor="end">{html.escape(label)}</text>'
            f'<rect class="ended" x="132" y="{y}" width="{max(width, 0.5):.1f}" height="15"/>'
            f'<text x="{136 + width:.1f}" y="{y + 11}">{html.escape(text)}</text>'
        )
    return figure(title, about, _svg(title, "".join(parts), height=8 + pitch * len(rows)))


def parallel(
    title: str, about: str, axes: Sequence[tuple[str, Axis]], rows: Sequence[tuple[str, str, list]]
) -> str:
    """Return parallel coordinates, an axis a row from top to bottom, which a narrow screen can show.

    A row is (CSS class, tip, value by axis); None leaves a gap. Later rows lie on top.
    """
    pitch, left, right = 54, 14, WIDTH - 14
    height = 46 + pitch * (len(axes) - 1)
    at = [26 + pitch * index for index in range(len(axes))]
    parts = []
    for kind, tip, values in rows:
        points = [
            (axis.at(value, left, right), y)
            for (_, axis), y, value in zip(axes, at, values, strict=True)
            if value is not None
        ]
        path = " ".join(f"{a:.1f},{b}" for a, b in points)
        parts.append(f'<polyline class="{kind}" points="{path}"><title>{html.escape(tip)}</title></polyline>')
    for (name, axis), y in zip(axes, at, strict=True):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="name" x="{left}" y="{y - 9}">{html.escape(name)}</text>')
        parts += [
            f'<text class="tick" x="{axis.at(value, left, right):.1f}" y="{y + 12}" text-anchor="middle">'
            f"{html.escape(label)}</text>"
            for value, label in axis.ticks()
        ]
    return figure(title, about, _svg(title, "".join(parts), height=height))


def figure(title: str, about: str, content: str) -> str:
    """Return a captioned figure."""
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b> {html.escape(about)}</figcaption>{content}</figure>"
    )


def _scales(x: Axis, y: Axis) -> tuple[Callable[[float], float], Callable[[float], float]]:
    return (
        lambda value: x.at(value, _LEFT, WIDTH - _RIGHT),
        lambda value: y.at(value, HEIGHT - _BOTTOM, _TOP),
    )


def _frame(x: Axis, y: Axis) -> str:
    """Return the grid lines and tick labels of both axes."""
    to_x, to_y = _scales(x, y)
    parts = []
    for value, label in y.ticks():
        at = to_y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{at + 4:.1f}" text-anchor="end">{html.escape(label)}</text>')
    for value, label in x.ticks():
        parts.append(
            f'<text x="{to_x(value):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{html.escape(label)}</text>'
        )
    return "".join(parts)


def _svg(title: str, content: str, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(title)}">{content}</svg>'


def _label(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"
