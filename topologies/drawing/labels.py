"""Label placement: each text takes the first of its candidate boxes that overlaps nothing placed before.

Coordinates are in points, y upwards; a text is a box around its centre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import dist

Point = tuple[float, float]

GLYPH_WIDTH = 0.56
"""Average glyph width as a share of the font size, in matplotlib's sans serif."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle around a point."""

    x: float
    y: float
    half_width: float
    half_height: float

    def overlap(self, other: Box) -> float:
        """The area common to both."""
        width = self.half_width + other.half_width - abs(self.x - other.x)
        height = self.half_height + other.half_height - abs(self.y - other.y)
        return max(0.0, width) * max(0.0, height)


def text_box(text: str, middle: Point, font_points: float) -> Box:
    """The box of a text of one or more lines."""
    lines = text.split("\n")
    return Box(*middle, GLYPH_WIDTH * font_points * max(map(len, lines)) / 2, 0.62 * font_points * len(lines))


class LabelLayout:
    """The boxes already occupied in a drawing."""

    def __init__(self, obstacles: Iterable[Box] = ()) -> None:
        self._occupied = list(obstacles)

    def add_obstacles(self, boxes: Iterable[Box]) -> None:
        """Mark further boxes as occupied."""
        self._occupied += boxes

    def place(self, candidates: Iterable[Box]) -> Box:
        """Occupy and return the first free candidate, or the one with the least overlap."""
        best, least = None, float("inf")
        for box in candidates:
            overlap = sum(box.overlap(other) for other in self._occupied)
            if overlap < least:
                best, least = box, overlap
            if not overlap:
                break
        if best is None:
            raise ValueError("no candidates")
        self._occupied.append(best)
        return best


def candidates_beside(point: Point, text: str, font_points: float, gap: float) -> list[Box]:
    """Candidate boxes for a name around a point: right, left, above, below, then the diagonals."""
    box = text_box(text, point, font_points)
    right, up = box.half_width + gap, box.half_height + gap
    return [Box(box.x + right * dx, box.y + up * dy, box.half_width, box.half_height) for dx, dy in _AROUND]


_AROUND = (
    *((1, 0), (-1, 0), (0, 1), (0, -1)),
    *((0.85, 0.8), (-0.85, 0.8), (0.85, -0.8), (-0.85, -0.8), (1.2, 1.4), (-1.2, -1.4)),
    *((1.2, -1.4), (-1.2, 1.4), (0, 2), (0, -2), (2, 0), (-2, 0), (1.6, 2), (-1.6, 2), (1.6, -2), (-1.6, -2)),
)


def line_obstacles(a: Point, b: Point) -> list[Box]:
    """A line as a row of small boxes, so that texts avoid it where possible."""
    pieces = max(1, round(dist(a, b) / 5))
    return [
        Box(a[0] + (b[0] - a[0]) * piece / pieces, a[1] + (b[1] - a[1]) * piece / pieces, 1.5, 1.5)
        for piece in range(pieces + 1)
    ]


def candidates_along(a: Point, b: Point, text: str, font_points: float) -> list[Box]:
    """Candidate boxes for a text on the line between two points, from its middle outwards."""
    shares = (0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72, 0.2, 0.8)
    return [
        text_box(text, (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share), font_points) for share in shares
    ]
