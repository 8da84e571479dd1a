"""Peak load: the highest simultaneous demand over lifetimes, periodic windows and single failures.

Simultaneous demands are found in two steps. Between two consecutive starts or ends, the set of live demands is
constant. For each such set, the periodic windows are projected onto a circle whose length is the greatest common
divisor of their periods. Windows that overlap at any time also overlap on the circle, so the peak is never too low, and
exact if all periods are equal. An interval with a constant set is assumed to contain whole periods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import gcd, inf
from typing import TypeVar

from controller.domain.frozen import frozen
from controller.domain.reservation import Window

Amount = TypeVar("Amount", int, float)


@frozen
class Activity:
    """When a demand exists: during [start_s, end_s) and, with a window, only in that part of every period.

    `failures`: of a backup, the spans (`a-b`, names sorted) and ducts (`duct:...`) of which one must be down; empty:
    always. At most one span or duct is down at a time.
    """

    start_s: float = -inf
    end_s: float = inf
    window: Window | None = None
    failures: frozenset[str] = frozenset()


ALWAYS = Activity()

Demand = tuple[Activity, Amount]


def peak_load(demands: Iterable[Demand[Amount]], start_s: float = -inf, end_s: float = inf) -> Amount | int:
    """Return the largest sum of simultaneous amounts, none negative, at any time in [start_s, end_s)."""
    constant_load: Amount | int = 0
    varying: list[Demand[Amount]] = []
    is_unconditional = True
    for activity, amount in demands:
        if activity.start_s >= end_s or activity.end_s <= start_s:
            continue
        is_always = activity.window is None and not activity.failures
        if is_always and activity.start_s <= start_s and activity.end_s >= end_s:
            constant_load += amount
        else:
            is_unconditional = is_unconditional and is_always
            varying.append((activity, amount))
    if not varying:
        return constant_load
    if is_unconditional:
        return constant_load + _peak_of_lifetimes(varying, start_s)
    live_sets = concurrent_lifetimes([activity for activity, _ in varying], start_s, end_s)
    return constant_load + max((_peak_on_circle([varying[i] for i in live]) for live in live_sets), default=0)


def _peak_of_lifetimes(demands: Sequence[Demand[Amount]], start_s: float) -> Amount | int:
    """Return the peak of demands without windows and failures: the sum rises only where a lifetime starts."""
    changes = [(max(activity.start_s, start_s), 1, amount) for activity, amount in demands]
    changes += [(activity.end_s, 0, -amount) for activity, amount in demands]
    changes.sort(key=lambda change: change[:2])
    peak: Amount | int = 0
    total: Amount | int = 0
    for _, _, amount in changes:
        total += amount
        peak = max(peak, total)
    return peak


def concurrent_lifetimes(
    activities: Sequence[Activity], start_s: float = -inf, end_s: float = inf
) -> Iterator[tuple[int, ...]]:
    """Yield the maximal sets, as indices, whose lifetimes have a time in [start_s, end_s) in common."""
    changes = []
    for index, activity in enumerate(activities):
        if activity.start_s < end_s and start_s < activity.end_s:
            changes += [(max(activity.start_s, start_s), 1, index), (activity.end_s, 0, index)]
    changes.sort()
    live: dict[int, None] = {}
    has_grown = False
    for _, starts, index in changes:
        if starts:
            live[index] = None
        else:
            if has_grown:
                yield tuple(live)
            del live[index]
        has_grown = bool(starts)


def concurrent_windows(activities: Sequence[Activity]) -> Iterator[tuple[int, ...]]:
    """Yield sets, as indices, whose windows have a time on the circle in common; every such set is a subset of a
    yielded one.
    """
    circle_us = gcd(*(activity.window.period_us for activity in activities if activity.window))
    open_indices: dict[int, None] = {}
    changes = []
    for index, activity in enumerate(activities):
        window = activity.window
        if window is None or window.length_us >= circle_us:
            open_indices[index] = None
        elif window.length_us > 0:
            opens_us = window.offset_us % circle_us
            closes_us = opens_us + window.length_us
            if closes_us > circle_us:
                closes_us -= circle_us
                open_indices[index] = None
            changes += [(opens_us, 1, index), (closes_us, 0, index)]
    changes.sort()
    has_grown = True
    for _, opens, index in changes:
        if opens:
            open_indices[index] = None
        else:
            if has_grown:
                yield tuple(open_indices)
            del open_indices[index]
        has_grown = bool(opens)
    if has_grown:
        yield tuple(open_indices)


def _peak_on_circle(demands: Sequence[Demand[Amount]]) -> Amount | int:
    """Return the peak of live demands over the circle of their periods."""
    open_sets = concurrent_windows([activity for activity, _ in demands])
    return max((_with_worst_failure([demands[i] for i in open_indices]) for open_indices in open_sets), default=0)


def _with_worst_failure(demands: Sequence[Demand[Amount]]) -> Amount | int:
    """Return the sum of the demands that always exist and the largest sum that a single failure adds."""
    always: Amount | int = 0
    added_by_failure: defaultdict[str, Amount | int] = defaultdict(int)
    for activity, amount in demands:
        if not activity.failures:
            always += amount
        for failure in activity.failures:
            added_by_failure[failure] += amount
    return always + max(added_by_failure.values(), default=0)
