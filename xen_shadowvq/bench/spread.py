# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, spreads, and what a curve says: nothing here knows what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Spread:
    """Where the samples of one figure lie."""

    median: float
    min: float
    lower_quartile: float
    upper_quartile: float
    max: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """ValueError: there are no samples."""
        if not values:
            raise ValueError("a spread needs at least one sample")
        lower = upper = values[0]
        if len(values) > 1:
            lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), min(values), lower, upper, max(values), len(values))

    def as_json(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Point:
    """One position of a curve."""

    x: float
    y: Spread


def curve(samples: Sequence[tuple[float, float]]) -> list[Point]:
    """(x, value) pairs of all rounds as points, by x."""
    by_x: dict[float, list[float]] = {}
    for x, value in samples:
        by_x.setdefault(x, []).append(value)
    return [Point(x, Spread.of(by_x[x])) for x in sorted(by_x)]


def line(points: Sequence[Point]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line through the medians."""
    fit = statistics.linear_regression([p.x for p in points], [p.y.median for p in points])
    return fit.slope, fit.intercept


def linearity(points: Sequence[Point], small_x: float, large_x: float) -> float:
    """y/x at `large_x` over y/x at `small_x`: 1 when cost grows in proportion to size, more when it grows faster."""
    at = {p.x: p.y.median / p.x for p in points if p.x}
    return at[large_x] / at[small_x]


def flatness(points: Sequence[Point]) -> float:
    """The largest median of a curve over the one at its start: 1 when x makes no difference."""
    return max(p.y.median for p in points) / points[0].y.median
