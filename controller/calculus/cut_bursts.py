"""The bursts at the cuts of a forest: the fixed point x = F(x) by Newton steps on the duals of small programmes.

F maps the bursts at all cuts to those that the linear programmes of the trees give for them. It is increasing and
concave, and every solution of a programme yields a majorant F(x) <= c + Y x for all x (`linear_program`). A trajectory
that stops at any instant has finite bursts x with x <= F(x) <= c + Y x. If the spectral radius of Y is below 1, then

    x <= (I - Y)^-1 c.

A vector v > 0 with Y v < v proves the spectral radius. Every step is a proven bound by itself.

Source: Bouillard, Performance Evaluation 153 (2022), §5.2 (the same fixed point as one programme); Berman and Plemmons,
"Nonnegative Matrices in the Mathematical Sciences", chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound
from controller.calculus.forest import Segment, Successors, segments_of
from controller.calculus.linear_program import Floats, Majorant
from controller.calculus.tree import tree_of
from controller.calculus.tree_program import TreeProgram

STEPS = 12
TOLERANCE = 1e-2
"""Relative; the iteration ends after a step that lowers no burst by more: the next would lower them by far less."""
START_FACTOR = 1e4
"""The first point of the iteration, in sources' bursts, where no bound is known."""

Hop = tuple[int, int]
"""(flow, number of a server on its path): a burst belongs to the flow at the input of that server."""
Clock = Callable[[], float]
"""How many seconds are left."""


def no_limit() -> float:
    """Return infinitely many seconds."""
    return inf


class CutAnalysis:
    """One forest with its programmes, which stay in the solver, and the bursts at its cuts."""

    def __init__(
        self,
        network: FifoNetwork,
        successors: Successors,
        delays_us: Mapping[str, float],
        is_as_published: bool = False,
    ) -> None:
        """`delays_us`: known delay bounds of servers. `is_as_published`: leave the flow whose burst is maximised out of
        the shaping rows, as Bouillard does; the bounds are larger, and every burst needs a programme of its own.
        """
        self.network = network
        self.successors = successors
        self.segments = segments_of(network, successors)
        self.cuts = [segment for segment in self.segments if segment.first]
        self.bursts: Floats = np.zeros(len(self.cuts))
        """Proven by `solve`, in kbit; one for each cut."""
        self._delays_us = dict(delays_us)
        self._index = {segment: number for number, segment in enumerate(self.cuts)}
        self._is_as_published = is_as_published
        self._programs: dict[tuple[str, Segment | None], TreeProgram] = {}

    def solve(self, known: Mapping[Hop, float], remaining_s: Clock = no_limit, steps: int = STEPS) -> None:
        """Find the bursts at the cuts. `known`: proven bounds of bursts, in kbit.

        Raises: NoBound if there are none; Unsolved if the time is over before a first bound.
        """
        if not self.cuts:
            return
        limit = np.array([known.get((segment.flow, segment.first), np.inf) for segment in self.cuts])
        start = [START_FACTOR * self.network.flows[segment.flow].bucket.burst for segment in self.cuts]
        point = np.where(np.isfinite(limit), limit, start)
        for _ in range(steps):
            bursts = least_solution(*self._majorants(point, remaining_s), limit)
            if bursts is None:
                break
            has_converged = bool((bursts >= limit * (1 - TOLERANCE)).all())
            limit = np.minimum(bursts, limit)
            point = limit
            if has_converged:
                break
        if not np.isfinite(limit).all():
            raise NoBound(self.cuts[int(np.argmax(limit))].previous)
        self.bursts = limit

    def solve_for(self, servers: Sequence[str], known: Mapping[Hop, float], remaining_s: Clock = no_limit) -> None:
        """Find bursts for the delay along these servers: only those that matter at the known bounds, in one step.

        Raises: NoBound, Unsolved
        """
        limit = np.array([known.get((segment.flow, segment.first), np.inf) for segment in self.cuts])
        if not np.isfinite(limit).all():
            self.solve(known, remaining_s)
            return
        matters = self.program(servers[-1]).delay(servers[0], limit, remaining_s()).slopes > 0
        constants, slopes = self._majorants(limit, remaining_s, matters)
        constants[~matters] = limit[~matters]
        bursts = least_solution(constants, slopes, limit)
        self.bursts = limit if bursts is None else np.minimum(bursts, limit)

    def improve(self, delays_us: Mapping[str, float]) -> None:
        """Use better delay bounds of servers from now on."""
        self._delays_us.update(delays_us)
        for program in self._programs.values():
            program.update_delays(self._delays_us)

    def delay_us(self, first: str, sink: str, remaining_s: Clock = no_limit) -> float:
        """Return a bound on the time from the arrival at `first` to the departure from `sink`, below it in the forest.

        Raises: NoBound if a server is unstable; Unsolved
        """
        majorant = self.program(sink).delay(first, self.bursts, remaining_s())
        return float(majorant.constant + majorant.slopes @ self.bursts)

    def program(self, sink: str, unshaped: Segment | None = None) -> TreeProgram:
        """Return the programme of a sink; `unshaped`: a segment that its shaping rows leave out.

        Raises: NoBound if a server is unstable.
        """
        program = self._programs.get((sink, unshaped))
        if program is None:
            tree = tree_of(self.network, self.successors, sink, self.segments, self._index)
            program = TreeProgram(self.network, tree, len(self.cuts), self._delays_us, unshaped)
            self._programs[sink, unshaped] = program
        return program

    def _majorants(
        self, point: Floats, remaining_s: Clock, is_asked: NDArray[np.bool_] | None = None
    ) -> tuple[Floats, Floats]:
        """Return c and Y of F <= c + Y x, tight at this point. `is_asked`: for which cuts; zeros for the others."""
        constants, slopes = np.zeros(len(self.cuts)), np.zeros((len(self.cuts), len(self.cuts)))
        for sink, cuts in self.cuts_by_sink().items():
            for number, before in cuts:
                if is_asked is not None and not is_asked[number]:
                    continue
                program = self.program(sink, before if self._is_as_published else None)
                majorant: Majorant = program.burst(program.number(before), point, remaining_s())
                constants[number], slopes[number] = majorant.constant, majorant.slopes
        return constants, slopes

    def cuts_by_sink(self) -> dict[str, list[tuple[int, Segment]]]:
        """Return the cuts (by number) and the segments that end there, for each server before a cut."""
        cuts: dict[str, list[tuple[int, Segment]]] = {}
        for before, segment in zip(self.segments, self.segments[1:], strict=False):
            if segment.first:
                cuts.setdefault(before.servers[-1], []).append((self._index[segment], before))
        return cuts


def least_solution(constants: Floats, slopes: Floats, limit: Floats) -> Floats | None:
    """Return a bound of all vectors x with x <= c + Y x and x <= limit, or None if none is found.

    Where the solution of x = c + Y x exceeds a limit, x <= limit takes the place of its row, which holds as well.
    """
    constants, slopes = constants.copy(), slopes.copy()
    for _ in range(len(constants) + 1):
        bursts, witness = _solution(constants, slopes)
        if _is_proven(slopes, bursts, witness):
            over = bursts > limit * (1 + 1e-12)
            if not over.any():
                return _with_margin(constants, slopes, bursts, witness)
        else:
            steepness = np.where(np.isfinite(limit), slopes.sum(axis=1), 0.0)
            if not steepness.max() > 0:
                return None
            over = np.arange(len(limit)) == int(np.argmax(steepness))
        constants[over], slopes[over] = limit[over], 0.0
    return None


def _solution(constants: Floats, slopes: Floats) -> tuple[Floats, Floats]:
    """Return (I - Y)^-1 c and (I - Y)^-1 1, or vectors that are no number."""
    sides = np.column_stack([constants, np.ones(len(constants))])
    try:
        solution = np.asarray(np.linalg.solve(np.eye(len(constants)) - slopes, sides), np.float64)
    except np.linalg.LinAlgError:
        return np.full(len(constants), np.nan), np.full(len(constants), np.nan)
    return solution[:, 0], solution[:, 1]


def _is_proven(slopes: Floats, bursts: Floats, witness: Floats) -> bool:
    """Return whether the spectral radius of Y is below 1: Y v <= v - 1/2 for a positive v."""
    if not (np.isfinite(bursts).all() and np.isfinite(witness).all()):
        return False
    return bool((witness > 0.5).all() and (slopes @ witness <= witness - 0.5).all())


def _with_margin(constants: Floats, slopes: Floats, bursts: Floats, witness: Floats) -> Floats:
    """Return the solution, raised along v until c + Y x <= x holds beyond the rounding of this sum."""
    excess = float(np.max(constants + slopes @ bursts - bursts))
    scale = float(np.max(np.abs(constants)) + np.max(np.abs(bursts)) * (1 + float(slopes.sum(axis=1).max())))
    raised: Floats = bursts + 2 * (max(excess, 0.0) + 1e-12 * scale) * witness
    return raised
