"""Prints the coefficients of `ss4rec.kernels.math_triton.complex_expm1`: minimax fits by Remez exchange.

Each line is a function's name, its largest relative error (of the cosine: relative to its largest value), and the
coefficients, lowest power first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

POINTS = 4001
Function = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def minimax(
    function: Function, weight: Function, low: float, high: float, terms: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the polynomial with the smallest largest |weight · (function - polynomial)|, and that error.

    The exchange is Remez's: solve for an error that alternates on `terms` + 1 points, move them to the error's extrema.
    """
    points = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)
    wanted, weights = function(points), weight(points)
    powers = points[:, None] ** np.arange(terms)
    chosen = np.linspace(0, POINTS - 1, terms + 1).round().astype(int)
    for _ in range(20):
        signs = (-1.0) ** np.arange(terms + 1) / weights[chosen]
        solution = np.linalg.solve(np.column_stack([powers[chosen], signs]), wanted[chosen])
        error = (wanted - powers @ solution[:-1]) * weights
        stretches = np.split(np.arange(POINTS), np.flatnonzero(np.diff(np.sign(error))) + 1)
        extrema = [stretch[np.argmax(np.abs(error[stretch]))] for stretch in stretches]
        if len(extrema) != terms + 1:
            break
        chosen = np.array(extrema)
    return solution[:-1], float(np.abs(error).max())


def main() -> None:
    """Print the three fits."""
    root = math.sqrt(2)

    def sine(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return root * math.pi * np.sinc(np.sqrt(q))

    def cosine(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return root * np.cos(math.pi * np.sqrt(q))

    def power(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.expm1(x * math.log(2)) / x

    fits = {
        "sqrt(2) sin(pi r) / r in r²": minimax(sine, lambda q: 1 / sine(q), 0.0, 0.25, 5),
        "sqrt(2) cos(pi r) in r²": minimax(cosine, lambda q: np.full_like(q, 1 / root), 0.0, 0.25, 6),
        "(2^x - 1) / x in x": minimax(power, lambda x: 1 / power(x), -0.25 / math.log(2), -1e-9, 5),
    }
    for name, (coefficients, error) in fits.items():
        print(f"{name}: {error:.1e}", *coefficients.tolist())


if __name__ == "__main__":
    main()
