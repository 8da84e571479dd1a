"""Local search: a stream without a place takes one, and what is in its way is placed anew.

The streams in the way are those with the least weight; a stream that was ejected or found no place weighs more from
then on, so that the search does not go round in circles.
Source: guided local search, Voudouris and Tsang, European Journal of Operational Research 113 (1999); ejection chains,
Nagata and Bräysy, Operations Research Letters 37 (2009).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from controller.tsn.attempt import Attempt
from controller.tsn.routes import TimedRoute
from controller.tsn.streams import TsnStream

MAX_STEPS = 100_000
"""Most streams that are forced in before the search gives up."""

ROUTES_TRIED, OFFSETS_TRIED = 4, 192
"""Routes of a stream, and offsets on each, whose ejections are compared."""

WAITING_EVERY = 8
"""In one of so many steps a stream may wait in queues, which takes longer to find."""


def eject(attempt: Attempt, streams: dict[str, TsnStream], rng: random.Random, keep_on: Callable[[], bool]) -> None:
    """Place the streams of an attempt that have no place; what is left in `unplaced` found none."""
    weights = Counter(list(streams))
    for step in range(MAX_STEPS):
        if not attempt.unplaced or (step % 16 == 0 and not keep_on()):
            return
        stream = attempt.unplaced.pop(rng.randrange(len(attempt.unplaced)))
        if attempt.place(stream) or (step % WAITING_EVERY == 0 and attempt.place(stream, waiting=True)):
            continue
        weights[stream.name] += 1
        ejected = _force_in(attempt, stream, weights, rng)
        if ejected is None:
            attempt.unplaced.append(stream)
            return
        attempt.unplaced += [streams[name] for name in ejected]


def _force_in(attempt: Attempt, stream: TsnStream, weights: Counter[str], rng: random.Random) -> list[str] | None:
    """Place a stream where the least weight is in its way; return the streams that were ejected, None: no place."""
    candidates = attempt.candidates(stream)
    if not candidates:
        return None
    if len(candidates) > ROUTES_TRIED:
        candidates = rng.sample(candidates, ROUTES_TRIED)
    period = stream.interval_ns // attempt.placement.tick_ns
    ejected: list[str] = []
    for number, (first, last) in enumerate(_shares(attempt, stream, period)):
        if last <= first:
            return None
        offsets = np.array(sorted(rng.sample(range(first, last), min(OFFSETS_TRIED, last - first))), dtype=np.int64)
        costs = [_costs(attempt, route, period, offsets, weights) for route in candidates]
        route, cost = min(zip(candidates, costs, strict=True), key=lambda pair: float(pair[1].min()))
        if stream.name in ejected or not np.isfinite(cost.min()):
            return None
        candidates = [route]
        offset = int(offsets[int(rng.choice(np.flatnonzero(cost == cost.min())))])
        for met in sorted(attempt.placement.met_by(attempt.placement.place_at(route, period, offset))):
            attempt.eject(met)
            weights[met] += 1
            ejected.append(met)
        attempt.put_at(stream, number, route, offset)
    return ejected


def _shares(attempt: Attempt, stream: TsnStream, period: int) -> list[tuple[int, int]]:
    """Return for each frame of a stream the offsets that it may have, first and one beyond the last."""
    tick_ns = attempt.placement.tick_ns
    first, last = attempt.offsets(stream, tick_ns, period)
    bounds = [first + (last + 1 - first) * number // stream.frames for number in range(stream.frames + 1)]
    return list(pairwise(bounds))


def _costs(
    attempt: Attempt, route: TimedRoute, period: int, offsets: NDArray[np.int64], weights: Counter[str]
) -> NDArray[np.float64]:
    """Return for each offset the weight of what is in the way; infinite where a window would cross the period's end."""
    costs = np.zeros(len(offsets))
    for step, start in zip(route.steps, route.starts, strict=True):
        places = (offsets + start) % period
        costs[places + step.length > period] = np.inf
        windows = attempt.placement.port(step.link.name).windows
        if not windows:
            continue
        starts = np.array([window.start for window in windows.values()], dtype=np.int64)
        lengths = np.array([window.length for window in windows.values()], dtype=np.int64)
        common = np.gcd(np.array([window.period for window in windows.values()], dtype=np.int64), period)
        ahead = (starts - places[:, None]) % common
        meets = (ahead < step.length) | (common - ahead < lengths)
        costs += meets @ np.array([weights[name] for name, _ in windows], dtype=np.float64)
    return costs
