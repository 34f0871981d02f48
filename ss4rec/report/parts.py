"""What charts are made of: lines, marks, bars, the frame around them, and SVG elements that escape their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup, escape

from ss4rec.report.axis import Axis

TEXT_PX = 6.4
"""Width of a letter at the charts' 11 pixels, on average."""


@dataclass(frozen=True)
class Line:
    """One line of `charts.lines`."""

    name: str
    """Shown in the key (where there are few lines) and under the mouse."""
    points: Sequence[tuple[float, float]]
    tone: str = "s1"
    band: Sequence[tuple[float, float]] = ()
    """Lower and upper value at each point; drawn as a band behind the line."""
    style: Literal["", "thick", "thin", "dashed", "dotted"] = ""


@dataclass(frozen=True)
class Mark:
    """One point of a scatter chart or column of a column chart."""

    x: float
    y: float
    tone: str = "s1"
    tip: str = ""
    low: float | None = None
    """With `high`: an interval, drawn as a thin upright line."""
    high: float | None = None


@dataclass(frozen=True)
class Bar:
    """One row of `charts.bars`."""

    label: str
    value: float
    text: str = ""
    """At the end of the bar."""
    tone: str = "s1"
    tip: str = ""
    low: float | None = None
    """With `high`: an interval, drawn as a thin line."""
    high: float | None = None


@dataclass(frozen=True)
class Frame:
    """Size of a chart in its own units, which are pixels at the width of 340, and the margins around the plot."""

    width: int = 340
    height: int = 210
    left: int = 46
    right: int = 14
    top: int = 10
    bottom: int = 30

    def x(self, axis: Axis, value: float) -> float:
        """Return the horizontal place of a value."""
        return axis.at(value, self.left, self.width - self.right)

    def y(self, axis: Axis, value: float) -> float:
        """Return the vertical place of a value."""
        return axis.at(value, self.height - self.bottom, self.top)

    def axes(self, x: Axis, y: Axis) -> Markup:
        """Return the grid lines and labels of both axes."""
        parts, base = [], self.height - self.bottom
        for value, text in y.ticks():
            at = self.y(y, value)
            parts.append(
                element("line", class_="grid", x1=self.left, x2=self.width - self.right, y1=at, y2=at)
            )
            parts.append(element("text", text, x=self.left - 4, y=at + 4, text_anchor="end"))
        free = self.left - TEXT_PX  # a label is left out where it would touch the one before
        for value, text in x.ticks():
            half = TEXT_PX * len(text) / 2
            at = min(max(self.x(x, value), half), self.width - half)
            if at - half > free:
                parts.append(element("text", text, x=at, y=base + 16, text_anchor="middle"))
                free = at + half + TEXT_PX
        return join(parts)


def element(name: str, *children: Any, tip: str = "", **attributes: Any) -> Markup:
    """Return an HTML or SVG element; text and attribute values are escaped.

    Args:
        name: the tag.
        *children: texts, which are escaped, and elements.
        tip: text of a `<title>` inside, which is the tooltip of an SVG element.
        **attributes: `class_` for `class`, `text_anchor` for `text-anchor`; numbers get one decimal; None is left out.
    """
    texts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inside = join([element("title", tip)] if tip else []) + join(children)
    tag = Markup(name)  # nosec B704 - a name from code; texts and attributes are escaped above
    return Markup("<{0}{1}>{2}</{0}>").format(tag, join(texts), inside)


def join(parts: Sequence[Any]) -> Markup:
    """Return the parts one after the other; texts are escaped."""
    return Markup("").join(escape(part) for part in parts)


def shortened(text: str, width_px: float) -> str:
    """Return `text`, cut with an ellipsis where it is wider than `width_px`."""
    room = int(width_px / TEXT_PX)
    return text if len(text) <= room else text[: max(room - 1, 1)] + "…"


def _number(value: Any) -> Any:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
