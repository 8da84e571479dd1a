"""The most of a quantity that is taken at one moment: lifetimes, periodic windows and single failures together.

Who is active together is found in two steps. Lifetimes lie on the line of time; between two of their ends the same ones
live. Of those, periodic windows are laid on a circle as long as the greatest common divisor of their periods. Two
windows that ever meet also meet there, so the peak found is never too low, and exact if all periods are equal. A
stretch of time in which the same ones live is taken to hold whole periods.
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
    """When something is needed: during [start_s, end_s) and, with a window, only in that part of every period.

    `failures`: of a backup, the spans (`a-b`, names sorted) and ducts (`duct:...`) of which one must be down; empty: it
    is always needed. Of all spans and ducts one at most is down at a time.
    """

    start_s: float = -inf
    end_s: float = inf
    window: Window | None = None
    failures: frozenset[str] = frozenset()


ALWAYS = Activity()

Member = tuple[Activity, Amount]


def peak_load(members: Iterable[Member[Amount]], start_s: float = -inf, end_s: float = inf) -> Amount | int:
    """The largest sum of amounts, none negative, that are needed together at any moment of [start_s, end_s)."""
    throughout: Amount | int = 0
    sometimes: list[Member[Amount]] = []
    plain = True
    for activity, amount in members:
        if activity.start_s >= end_s or activity.end_s <= start_s:
            continue
        constant = activity.window is None and not activity.failures
        if constant and activity.start_s <= start_s and activity.end_s >= end_s:
            throughout += amount
        else:
            plain = plain and constant
            sometimes.append((activity, amount))
    if not sometimes:
        return throughout
    if plain:
        return throughout + _peak_of_lifetimes(sometimes, start_s)
    sets = alive_together([activity for activity, _ in sometimes], start_s, end_s)
    return throughout + max((_peak_on_circle([sometimes[i] for i in alive]) for alive in sets), default=0)


def _peak_of_lifetimes(members: Sequence[Member[Amount]], start_s: float) -> Amount | int:
    """Windows and failures apart: the sum only rises where something starts."""
    changes = [(max(activity.start_s, start_s), 1, amount) for activity, amount in members]
    changes += [(activity.end_s, 0, -amount) for activity, amount in members]
    changes.sort(key=lambda change: change[:2])
    most: Amount | int = 0
    total: Amount | int = 0
    for _, _, amount in changes:
        total += amount
        most = max(most, total)
    return most


def alive_together(
    activities: Sequence[Activity], start_s: float = -inf, end_s: float = inf
) -> Iterator[tuple[int, ...]]:
    """The largest sets, as indices, whose lifetimes share a moment of [start_s, end_s)."""
    changes = []
    for index, activity in enumerate(activities):
        if activity.start_s < end_s and start_s < activity.end_s:
            changes += [(max(activity.start_s, start_s), 1, index), (activity.end_s, 0, index)]
    changes.sort()
    alive: dict[int, None] = {}
    grown = False
    for _, starts, index in changes:
        if starts:
            alive[index] = None
        else:
            if grown:
                yield tuple(alive)
            del alive[index]
        grown = bool(starts)


def open_together(activities: Sequence[Activity]) -> Iterator[tuple[int, ...]]:
    """Sets, as indices, whose windows share a moment of the circle; with every such set, a set that contains it."""
    circle_us = gcd(*(activity.window.period_us for activity in activities if activity.window))
    opened: dict[int, None] = {}
    changes = []
    for index, activity in enumerate(activities):
        window = activity.window
        if window is None or window.length_us >= circle_us:
            opened[index] = None
        elif window.length_us > 0:
            opens_us = window.offset_us % circle_us
            closes_us = opens_us + window.length_us
            if closes_us > circle_us:
                closes_us -= circle_us
                opened[index] = None
            changes += [(opens_us, 1, index), (closes_us, 0, index)]
    changes.sort()
    grown = True
    for _, opens, index in changes:
        if opens:
            opened[index] = None
        else:
            if grown:
                yield tuple(opened)
            del opened[index]
        grown = bool(opens)
    if grown:
        yield tuple(opened)


def _peak_on_circle(members: Sequence[Member[Amount]]) -> Amount | int:
    sets = open_together([activity for activity, _ in members])
    return max((_with_worst_failure([members[i] for i in opened]) for opened in sets), default=0)


def _with_worst_failure(members: Sequence[Member[Amount]]) -> Amount | int:
    """What is always needed, and the most that any one failure adds."""
    always: Amount | int = 0
    added: defaultdict[str, Amount | int] = defaultdict(int)
    for activity, amount in members:
        if not activity.failures:
            always += amount
        for failure in activity.failures:
            added[failure] += amount
    return always + max(added.values(), default=0)
