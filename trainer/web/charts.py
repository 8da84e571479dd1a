"""Charts as plain numbers for SVG templates. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
Series = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line: SVG points, its name, and a number from 0 that chooses its colour. `step`: where markers are drawn."""

    name: str
    points: str
    markers: tuple[tuple[float, float], ...]
    colour: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart. Ticks are pairs of place and text; `text` says in a sentence what it shows."""

    title: str
    text: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    target: float | None


def line_chart(
    title: str,
    series: Mapping[str, Series],
    x_label: str,
    target: float | None = None,
    from_zero: bool = False,
    stairs: bool = False,
) -> Chart | None:
    """Return a chart of the series; None if none has a point. `stairs`: each value holds until the next one."""
    drawn = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return None
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points] + ([] if target is None else [target])
    y_ticks = ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    x_ticks = ticks(min(xs), max(xs))
    low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
    start, end = min(xs), max(xs)

    def x_of(x: float) -> float:
        return LEFT + (x - start) / ((end - start) or 1.0) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for number, (name, points) in enumerate(drawn.items()):
        places = [(round(x_of(x), 1), round(y_of(y), 1)) for x, y in points]
        corners = _stairs(places) if stairs else places
        lines.append(Line(name, " ".join(f"{x},{y}" for x, y in corners), () if stairs else tuple(places), number % 6))
    last = ", ".join(f"{name} {points[-1][1]:.4g}" for name, points in drawn.items())
    return Chart(
        title,
        f"{title}: last {last}",
        tuple(lines),
        tuple((x_of(x), f"{x:g}") for x in x_ticks if start <= x <= end),
        tuple((y_of(y), f"{y:g}") for y in y_ticks),
        x_label,
        None if target is None else y_of(target),
    )


def _stairs(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    corners = places[:1]
    for (_, before), (x, y) in pairwise(places):
        corners += [(x, before), (x, y)]
    return corners


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that cover the range, at most about `most` of them."""
    size = max(abs(low), abs(high))
    if high - low <= max(size * 1e-9, 1e-300):  # equal as far as numbers of a chart go
        high = low + (size if size > 1e-300 else 1.0)
    raw = (high - low) / most
    exponent = math.floor(math.log10(raw))
    step = next(factor * 10.0**exponent for factor in (1, 2, 5, 10) if factor * 10.0**exponent >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 1 - exponent) for number in range(first, last + 1)]
