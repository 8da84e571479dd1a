"""Lightpaths in operation, and the spectrum that they occupy on every link: lit, moved, extinguished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.domain.frozen import frozen
from controller.optical.candidate_routes import CandidateRoute
from controller.optical.conflict_counter import ConflictCounter
from controller.optical.spectrum import Assignment, Spectrum, starts_within_bands
from controller.optical.spectrum_grid import SpectrumGrid

RouteOption = tuple[int, int, CandidateRoute]
"""Slots x links, slots, route: as `CandidateRoutes.candidates` lists them."""


@frozen
class LitLightpath:
    """A lightpath in operation. `options`: the routes that it can take, cheapest first; `is_pinned`: never moved.

    `least_growth`: a lower bound on how much it grows in slots x links on any of these; None: that of the first.
    """

    number: int
    assignment: Assignment
    options: Sequence[RouteOption] = ()
    is_pinned: bool = False
    least_growth: int | None = None

    @property
    def cost(self) -> int:
        """The spectrum that it uses, in slots x links."""
        return self.assignment.width * len(self.assignment.route.links)


@frozen
class Move:
    """A lightpath changes its block, or its route and block."""

    before: LitLightpath
    after: Assignment


class LitSpectrum(Spectrum):
    """The free slots of every link, and the lightpaths that occupy others.

    `available`: the slots that a lightpath may ever occupy, by link; `movable`: those of them that no pinned lightpath
    occupies; `channel_slots`: a lightpath begins at a multiple of so many; `upper_band`: the first slot of another
    band, which no lightpath crosses.
    """

    def __init__(
        self, grid: SpectrumGrid, available: Sequence[int], channel_slots: int = 1, upper_band: int | None = None
    ) -> None:
        super().__init__(grid, available)
        self.movable = list(available)
        most_slots = max(slots.bit_length() for slots in available)
        self._channel_starts = sum(1 << first for first in range(0, most_slots, channel_slots))
        self._upper_band = most_slots if upper_band is None else upper_band
        self._allowed: dict[int, int] = {}
        self.conflicts = ConflictCounter(most_slots)
        self.lit_on: list[dict[int, LitLightpath]] = [{} for _ in available]
        self.least_growth: dict[int, int] = {}
        """Of each lightpath: a lower bound on how much it grows in slots x links by a move; at most 0."""

    def allowed_starts(self, width: int) -> int:
        """Return the slots at which a lightpath of this width may begin."""
        allowed = self._allowed.get(width)
        if allowed is None:
            allowed = starts_within_bands(self._channel_starts, width, self._upper_band)
            self._allowed[width] = allowed
        return allowed

    def light(self, lightpath: LitLightpath) -> None:
        """Add a lightpath.

        Raises: ValueError if one of its slots is occupied (a bug in the caller).
        """
        self.occupy(lightpath.assignment)
        self._add(lightpath)

    def _add(self, lightpath: LitLightpath) -> None:
        number, lit_on, links = lightpath.number, self.lit_on, lightpath.assignment.route.links
        for link in links:
            lit_on[link][number] = lightpath
        least, options = lightpath.least_growth, lightpath.options
        if least is None:
            least = options[0][0] - len(links) * lightpath.assignment.block.bit_count() if options else 0
        self.least_growth[number] = least if least < 0 else 0
        if lightpath.is_pinned:
            for link in links:
                self.movable[link] &= ~lightpath.assignment.block

    def extinguish(self, lightpath: LitLightpath) -> None:
        """Remove a lightpath."""
        number, lit_on, links = lightpath.number, self.lit_on, lightpath.assignment.route.links
        self.release(lightpath.assignment)
        for link in links:
            del lit_on[link][number]
        del self.least_growth[number]
        if lightpath.is_pinned:
            for link in links:
                self.movable[link] |= lightpath.assignment.block

    def move(self, move: Move) -> LitLightpath:
        """Light the new block beside the old one, then free the old one; returns the lightpath after it.

        Raises: ValueError if the new block is occupied, by the lightpath itself too (a bug in the caller).
        """
        before = move.before
        after = replace(before, assignment=move.after, least_growth=None)
        self.occupy(move.after)
        self.extinguish(before)
        self._add(after)
        return after
