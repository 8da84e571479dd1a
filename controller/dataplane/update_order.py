"""Wanted entries + present entries -> changes, in an order in which no promise is broken on the way.

Admitting: first best effort shrinks everywhere and paths are laid, and only then does the first switch let packets in.
Releasing goes the other way round: best effort grows last. A path that changes is laid beside the old one, under a
label of its own (controller.dataplane.fast_failover), and taken by one entry at the first switch.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Literal

from controller.dataplane.entries import Entry, FlowEntry, MeterEntry
from controller.domain.frozen import frozen
from controller.domain.reservation import FIRST_METER_ID

Kind = Literal[
    "add_meter", "modify_meter", "delete_meter", "add_group", "modify_group", "delete_group", "add_flow", "delete_flow"
]

DELETES: frozenset[Kind] = frozenset({"delete_meter", "delete_group", "delete_flow"})


class Phase(IntEnum):
    """The safe order; each phase is confirmed by every switch before the next begins."""

    SHRINK = 0
    """Meters that fall, and new meters and groups, which nothing uses yet."""
    LAY = 1
    """New forwarding entries, which nothing reaches yet, and those that only change their cookie."""
    TURN = 2
    """Forwarding entries that lead elsewhere than before: best effort, and protected flows at their first switch."""
    OPEN = 3
    """Classifying entries, new and changed, and reservations' meters that rise."""
    CLOSE = 4
    """Classifying entries that go."""
    CLEAR = 5
    """Forwarding entries that go."""
    GROW = 6
    """Meters and groups that go, and port meters that rise."""


@frozen
class Change:
    """One thing to tell a switch; `add_flow` also replaces an entry of the same key."""

    kind: Kind
    entry: Entry


class Stage(Enum):
    """Phases that may be told in one breath; a switch does what it is told in order. Confirmed before the next."""

    LAY = (Phase.SHRINK, Phase.LAY)
    """Nothing reaches what is laid, so it does not matter which switch is first."""
    TURN = (Phase.TURN,)
    OPEN = (Phase.OPEN,)
    CLOSE = (Phase.CLOSE,)
    CLEAR = (Phase.CLEAR, Phase.GROW)


STAGES = tuple(Stage)
STAGE_OF: tuple[int, ...] = tuple(
    next(number for number, stage in enumerate(STAGES) if phase in stage.value) for phase in Phase
)
"""For every phase: the number of its stage, counted in their order."""


def change_for(wanted: Entry | None, held: Entry | None) -> tuple[Phase, Change] | None:
    """What to tell a switch that holds the one where the other should be, and when; None: nothing."""
    if wanted == held:
        return None
    if wanted is None:
        return _gone(held)
    if isinstance(wanted, FlowEntry):
        return _entry_phase(wanted, held if isinstance(held, FlowEntry) else None), Change("add_flow", wanted)
    if isinstance(wanted, MeterEntry):
        if isinstance(held, MeterEntry):
            return _meter_phase(wanted, held), Change("modify_meter", wanted)
        return Phase.SHRINK, Change("add_meter", wanted)
    return Phase.SHRINK, Change("add_group" if held is None else "modify_group", wanted)


def _gone(held: Entry | None) -> tuple[Phase, Change] | None:
    if isinstance(held, FlowEntry):
        return Phase.CLOSE if held.table == 0 else Phase.CLEAR, Change("delete_flow", held)
    if isinstance(held, MeterEntry):
        return Phase.GROW, Change("delete_meter", held)
    return None if held is None else (Phase.GROW, Change("delete_group", held))


def _meter_phase(wanted: MeterEntry, present: MeterEntry) -> Phase:
    if wanted.rate_kbps < present.rate_kbps:
        return Phase.SHRINK
    return Phase.OPEN if wanted.meter_id >= FIRST_METER_ID else Phase.GROW


def _entry_phase(wanted: FlowEntry, present: FlowEntry | None) -> Phase:
    if wanted.table == 0:
        return Phase.OPEN
    if present is None or present._replace(cookie=wanted.cookie) == wanted:
        return Phase.LAY
    return Phase.TURN
