"""When an edge is late, and what may be done about it.

`wait`: nothing is lost but time, until the step's timeout. `drop`: the round goes on without it, and it may come back
at the next averaging. `shrink`: it is waited for, and from the next round on gets at most half its layers; every round
in which it is not late lets it have one more.
"""

from __future__ import annotations

from typing import Literal

StragglerPolicy = Literal["wait", "drop", "shrink"]
LATE_POLICIES: tuple[StragglerPolicy, ...] = ("wait", "drop", "shrink")

LEAST_S = 1.0
"""No step is called late before this: an operating system alone can take that long."""


def late_after_s(planned_step_s: float, factor: float) -> float:
    """From the start of a step until an edge that has not ended it is late."""
    return max(LEAST_S, factor * planned_step_s)


def eased(cap: int | None, was_late: bool, layers: int) -> int | None:
    """The cap on a cut after a round; None when it no longer limits anything."""
    if cap is None or was_late:
        return cap
    return cap + 1 if cap + 1 < layers else None
