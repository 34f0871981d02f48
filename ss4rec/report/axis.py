"""The axes of charts: from values to pixels, and round values to label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


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
    def around(
        cls, values: Sequence[float], *, log: bool = False, whole: bool = False, zero: bool = False
    ) -> Axis:
        """Return an axis with a little air around `values`; with `zero`, 0 is on it and is an end if it can be."""
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return cls(0.0, 1.0)
        low, high = min(values), max(values)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
            air = 0.05 * (high - low) or 0.5
            return cls(low - air * (low < 0), high + air * (high > 0 or low == high), whole=whole)
        if log and low > 0:
            return cls(low / 1.1, high * 1.1, log=True)
        air = 0.05 * (high - low) or (1.0 if whole else 0.05 * abs(high) or 0.5)
        return cls(low - air, high + air, whole=whole)

    @classmethod
    def of(cls, names: Sequence[str]) -> Axis:
        """Return an axis of categories."""
        return cls(-0.5, len(names) - 0.5, names=tuple(names))

    def at(self, value: float, start: float, end: float) -> float:
        """Return the pixel of `value` between the pixels `start` and `end`."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return start + (end - start) * (value - low) / (high - low)

    def text(self, value: float) -> str:
        """Return a value as the reader sees it: a category's name, or a short number."""
        if self.names and value == int(value) and 0 <= value < len(self.names):
            return self.names[int(value)]
        return label(value)

    def ticks(self, maximum: int = 4) -> list[tuple[float, str]]:
        """Return round values inside the axis with their labels; about `maximum` of them where the axis has numbers."""
        if self.names:
            return [(float(index), name) for index, name in enumerate(self.names)]
        if self.log:
            return self._log_ticks(maximum)
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (factor * power for factor in (5, 2, 1, 0.5, 0.2, 0.1)):
            found = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            if len(found) >= 3 or (self.whole and step <= 1):
                break
        return [(n * step, label(n * step)) for n in found]

    def _log_ticks(self, maximum: int) -> list[tuple[float, str]]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        found: list[float] = []
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [
                factor * 10.0**power
                for power in range(low, high + 1)
                for factor in factors
                if self.low <= factor * 10.0**power <= self.high
            ]
            if len(found) >= 2:
                break
        return [(value, label(value)) for value in found[:: max(1, len(found) // maximum)]]


def label(value: float) -> str:
    """Return a number in at most four significant digits."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
