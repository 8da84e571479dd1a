"""The free slots of every link, and blocks of them: a set of slots is the bits of an integer, bit i is slot i.

The starts of free blocks of w slots are found by shifting the set onto itself, about log2 w times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controller.domain.frozen import frozen
from controller.optical.candidate_routes import CandidateRoute
from controller.optical.spectrum_grid import SpectrumGrid


@frozen
class Assignment:
    """A route and a block of slots on it, as a bit set."""

    route: CandidateRoute
    block: int

    @property
    def first(self) -> int:
        """The lowest slot."""
        return (self.block & -self.block).bit_length() - 1

    @property
    def width(self) -> int:
        """The number of slots."""
        return self.block.bit_count()


class Spectrum:
    """The free slots of every link; `occupy` and `release` update them."""

    def __init__(self, grid: SpectrumGrid, free: Sequence[int]) -> None:
        self.grid = grid
        self.free = list(free)
        self._free_links: list[int] | None = None

    @property
    def free_links(self) -> list[int]:
        """Of each slot the set of links where it is free, as bits; the last element, also that of slot -1, is empty.

        Kept up to date from the first use on.
        """
        if self._free_links is None:
            slots = max(free.bit_length() for free in self.free)
            columns = [sum((free >> slot & 1) << link for link, free in enumerate(self.free)) for slot in range(slots)]
            self._free_links = [*columns, 0]
        return self._free_links

    def occupy(self, assignment: Assignment) -> None:
        """Occupy a block.

        Raises: ValueError if one of its slots is occupied (a bug in the caller).
        """
        block, route, free = assignment.block, assignment.route, self.free
        for link in route.links:
            left = free[link] ^ block
            if left & block:
                raise ValueError(f"slots {assignment.first}+{assignment.width} of link {link} are taken")
            free[link] = left
        free_links = self._free_links
        if free_links is not None:
            links = route.link_set
            for slot in range((block & -block).bit_length() - 1, block.bit_length()):
                free_links[slot] ^= links

    def release(self, assignment: Assignment) -> None:
        """Free a block."""
        block, route, free = assignment.block, assignment.route, self.free
        for link in route.links:
            free[link] |= block
        free_links = self._free_links
        if free_links is not None:
            links = route.link_set
            for slot in range((block & -block).bit_length() - 1, block.bit_length()):
                free_links[slot] |= links

    def most_used(self, starts: int, width: int) -> int:
        """Return the start, out of these, whose block of `width` slots is used on most links, the lowest on a tie."""
        planes: list[int] = []  # bit i of plane p: bit p of the usage count of slot i
        for free in self.free:
            _add_bits(planes, self.grid.all_free & ~free, 0)
        block_planes: list[int] = []
        for offset in range(width):
            for weight, plane in enumerate(planes):
                _add_bits(block_planes, plane >> offset, weight)
        for plane in reversed(block_planes):
            starts = starts & plane or starts
        return starts & -starts


class _Shifts(dict[int, tuple[int, ...]]):
    """Of each width the shifts after which only the starts of free blocks are left; computed when first needed."""

    def __missing__(self, width: int) -> tuple[int, ...]:
        shifts, covered = [], 1
        while covered < width:
            shifts.append(min(covered, width - covered))
            covered += shifts[-1]
        self[width] = tuple(shifts)
        return self[width]


BLOCK_SHIFTS: Final = _Shifts()


def block_starts(free: int, width: int) -> int:
    """Return the slots at which a free block of `width` slots starts."""
    for shift in BLOCK_SHIFTS[width]:
        free &= free >> shift
    return free


def covered_slots(starts: int, width: int) -> int:
    """Return the slots of the blocks of `width` slots that begin at these starts."""
    for shift in BLOCK_SHIFTS[width]:
        starts |= starts << shift
    return starts


def overlapping_starts(block: int, width: int) -> int:
    """Return the slots at which a block of `width` slots starts that has a slot of this block."""
    first = block & -block
    return ((block + first << width - 1) - first) >> width - 1


def starts_within_bands(starts: int, width: int, first_of_upper: int) -> int:
    """Return those of the starts from which a block does not cross into the band that begins at a slot."""
    crossing = ((1 << width - 1) - 1 << first_of_upper) >> width - 1
    return starts & ~crossing


def _add_bits(planes: list[int], bits: int, weight: int) -> None:
    """Add 2^weight to the counter of each column whose bit is set; plane p holds bit p of all counters."""
    while bits:
        while len(planes) <= weight:
            planes.append(0)
        bits, planes[weight] = bits & planes[weight], bits ^ planes[weight]
        weight += 1
