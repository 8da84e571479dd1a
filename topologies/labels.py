"""Where texts go in a drawing so that they do not lie on one another: each takes the first free place of its choices.

Coordinates are in points of the drawing, y upwards; a text is a box around its middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import dist

Point = tuple[float, float]

GLYPH_WIDTH = 0.56
"""Of the font's size, on average, in matplotlib's sans serif."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle around a point."""

    x: float
    y: float
    half_width: float
    half_height: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = self.half_width + other.half_width - abs(self.x - other.x)
        height = self.half_height + other.half_height - abs(self.y - other.y)
        return max(0.0, width) * max(0.0, height)


def text_box(text: str, middle: Point, font_points: float) -> Box:
    """What a text of one line takes."""
    return Box(*middle, GLYPH_WIDTH * font_points * len(text) / 2, 0.62 * font_points)


class Room:
    """What is taken of a drawing."""

    def __init__(self, taken: Iterable[Box] = ()) -> None:
        self._taken = list(taken)

    def block(self, boxes: Iterable[Box]) -> None:
        """These are in the way, too."""
        self._taken += boxes

    def take(self, choices: Iterable[Box]) -> Box:
        """The first of these that is free, or the one that is least in the way; it is taken then."""
        best, least = None, float("inf")
        for box in choices:
            common = sum(box.overlap(other) for other in self._taken)
            if common < least:
                best, least = box, common
            if not common:
                break
        if best is None:
            raise ValueError("no choices")
        self._taken.append(best)
        return best


def beside(point: Point, text: str, font_points: float, gap: float) -> list[Box]:
    """Places for a name around a point: right, left, above, below, and between."""
    box = text_box(text, point, font_points)
    right, up = box.half_width + gap, box.half_height + gap
    return [Box(box.x + right * dx, box.y + up * dy, box.half_width, box.half_height) for dx, dy in _AROUND]


_AROUND = (
    *((1, 0), (-1, 0), (0, 1), (0, -1)),
    *((0.85, 0.8), (-0.85, 0.8), (0.85, -0.8), (-0.85, -0.8), (1.2, 1.4), (-1.2, -1.4)),
)


def line(a: Point, b: Point) -> list[Box]:
    """A line as small boxes, so that texts keep off it where they can."""
    pieces = max(1, round(dist(a, b) / 5))
    return [
        Box(a[0] + (b[0] - a[0]) * piece / pieces, a[1] + (b[1] - a[1]) * piece / pieces, 1.5, 1.5)
        for piece in range(pieces + 1)
    ]


def along(a: Point, b: Point, text: str, font_points: float) -> list[Box]:
    """Places for a text on the line between two points, from its middle outwards."""
    shares = (0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72, 0.2, 0.8)
    return [
        text_box(text, (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share), font_points) for share in shares
    ]
