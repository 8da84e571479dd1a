"""Straggler policies: what happens to an edge that exceeds the deadline of a step.

`wait`: the step continues, until the step timeout. `drop`: the round continues without the edge, which may rejoin at
the next averaging. `shrink`: the step continues, and from the next round on the edge's cut is capped at half its
layers; each round in which the edge is on time raises the cap by one.
"""

from __future__ import annotations

from typing import Literal

StragglerPolicy = Literal["wait", "drop", "shrink"]
STRAGGLER_POLICIES: tuple[StragglerPolicy, ...] = ("wait", "drop", "shrink")

MIN_DEADLINE_S = 1.0
"""Scheduling noise of the operating system alone can delay a step this long."""


def step_deadline_s(planned_step_s: float, factor: float) -> float:
    """Return the seconds from the start of a step after which an edge still working on it is late."""
    return max(MIN_DEADLINE_S, factor * planned_step_s)


def relaxed_cap(cap: int | None, was_late: bool, layers: int) -> int | None:
    """Return the cap on a cut after a round; None when it no longer limits anything."""
    if cap is None or was_late:
        return cap
    return cap + 1 if cap + 1 < layers else None
