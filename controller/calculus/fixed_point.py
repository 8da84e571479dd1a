"""Total-flow analysis (TFA): the delays of all servers as the least fixed point, computed from below.

The burst of a stream at a server is its burst at the source plus its rate times the jitter accumulated so far, which
follows from the delays of the servers before: D = F(D). Any D with F(D) <= D bounds the delays, because the delay of a
packet depends only on earlier packets, whose jitter D bounds by induction. The iteration from below converges to the
least such D; headroom is added until F(D) <= D is verified, which is the proof.

Where cyclic dependencies make the iteration slow, Newton's method ends it: F is concave and piecewise linear, so the
fixed point of the piece that is active at any D >= F(D) lies between D and the least fixed point, and after finitely
many pieces it is the least. It starts from the piece of very long delays, which has the smallest gain: if that piece
has no fixed point, neither has F.

Source: Thomas, Le Boudec and Mifdaoui, "On cyclic dependencies and regulators in time-sensitive networks", RTSS 2019;
Costan et al., "A policy iteration algorithm for computing fixed points in static analysis of programs", CAV 2005.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from controller.calculus.busy_period import MAX_DELAY_US
from controller.calculus.curves import Server
from controller.calculus.delay_map import DelayMap, Floats, Indices
from controller.calculus.streams import NoBound, Stream

__all__ = ["NoBound", "Stream", "fixed_point_delays"]

ITERATIONS = 300
ITERATIONS_BEFORE_NEWTON = 25
NEWTON_STEPS = 50
LARGE_DELAY_US = 1e13
"""So long that every group of streams has exceeded its shaping curve."""
TOLERANCE = 1e-7
"""Relative; the iteration has converged when no delay grows by more."""
HEADROOMS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative; tried in this order."""


def fixed_point_delays(
    servers: Mapping[str, Server], streams: Collection[Stream], clock_us: float = 0.0
) -> dict[str, float]:
    """Return the delay bound in us of every server that a stream crosses.

    Raises: NoBound if a server is unstable or the iteration does not converge.
    """
    if not streams:
        return {}
    delay_map = DelayMap(servers, list(streams), clock_us)
    delay = np.zeros(len(delay_map.names))
    for headroom in HEADROOMS:
        delay = _converged(delay_map, delay)
        raised = delay * (1 + headroom)
        next_delay = delay_map.step(raised)
        if (next_delay <= raised).all():
            return dict(zip(delay_map.names, raised.tolist(), strict=True))
        delay = np.maximum(delay, next_delay)  # longer delays may make more streams concurrent
    raise NoBound(delay_map.names[int(np.argmax(next_delay - raised))])


def _converged(delay_map: DelayMap, delay: Floats) -> Floats:
    """Iterate from these delays until they converge.

    Raises: NoBound
    """
    for iteration in range(1, ITERATIONS + 1):
        next_delay = delay_map.step(delay)
        is_growing = next_delay > delay * (1 + TOLERANCE)
        if not is_growing.any():
            return delay
        delay = np.maximum(delay, next_delay)
        if iteration % ITERATIONS_BEFORE_NEWTON == 0:
            is_growing[list(delay_map.hops_by_sets)] = False  # F of these servers is not concave
            delay = np.maximum(delay, _fixed_point_among(delay_map, delay, np.flatnonzero(is_growing)))
        if delay.max() > MAX_DELAY_US:
            break
    raise NoBound(delay_map.names[int(np.argmax(delay))])


def _fixed_point_among(delay_map: DelayMap, delay: Floats, among: Indices) -> Floats:
    """Return the fixed point of those servers while the delays of the others stay, by Newton's method from above.

    Infinite delays where there is no fixed point.
    """
    fixed_point = delay.copy()
    fixed_point[among] = LARGE_DELAY_US
    for _ in range(NEWTON_STEPS):
        excess = (fixed_point - delay_map.always_active_step(fixed_point))[among]
        gains = delay_map.gains(fixed_point, among)
        try:
            solved = fixed_point[among] - np.linalg.solve(np.eye(len(among)) - gains, excess)
        except np.linalg.LinAlgError:
            solved = np.full(len(among), -1.0)
        if not (solved > 0).all():
            fixed_point[among] = np.inf
            break
        is_final = (solved >= fixed_point[among] * (1 - TOLERANCE**2)).all()
        fixed_point[among] = solved
        if is_final:
            break
    return fixed_point
