"""The changes from applied to intended entries, ordered so that every intermediate state keeps all guarantees.

To admit a flow, best effort is reduced and forwarding entries are installed everywhere before the first switch admits
packets. A release runs in the opposite order: best effort grows last. A new path is installed beside the old one, under
its own label (controller.dataplane.fast_failover), and activated by one entry at the first switch.

Source: Reitblat et al., "Abstractions for Network Update", SIGCOMM 2012 (consistent updates).
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum, IntEnum
from typing import Literal

from controller.dataplane.entries import Entry, FlowEntry, MeterEntry
from controller.dataplane.fragment_entries import FRAGMENT_PRIORITY
from controller.dataplane.meter_tokens import TokenMove
from controller.domain.frozen import frozen
from controller.domain.reservation import FIRST_METER_ID

Kind = Literal[
    "add_meter", "modify_meter", "delete_meter", "add_group", "modify_group", "delete_group", "add_flow", "delete_flow",
    "move_tokens",
]  # fmt: skip

DELETES: frozenset[Kind] = frozenset({"delete_meter", "delete_group", "delete_flow"})


class Phase(IntEnum):
    """The safe order of changes."""

    SHRINK = 0
    """Meters whose rate falls, and new meters and groups, which are not used yet."""
    LAY = 1
    """New forwarding entries, which no packet reaches yet, those that change only their cookie, and those that count
    fragments, which treat packets as before."""
    TURN = 2
    """Forwarding entries with new actions: best effort, and protected flows at their first switch."""
    OPEN = 3
    """New and changed classifier entries, and reservation meters whose rate rises."""
    CLOSE = 4
    """Removed classifier entries."""
    CLEAR = 5
    """Removed forwarding entries."""
    GROW = 6
    """Removed meters and groups, and port meters whose rate rises."""


@frozen
class Change:
    """One modification message; `add_flow` also replaces an entry of the same key.

    `tokens`: the meter is read, and frames are sent through it, with the change; `move_tokens` does only that.
    """

    kind: Kind
    entry: Entry
    tokens: TokenMove | None = field(default=None, compare=False)


class Stage(Enum):
    """Phases sent together, which a switch executes in order; all switches confirm a stage before the next is sent."""

    LAY = (Phase.SHRINK, Phase.LAY)
    """No packet reaches the new entries yet, so the order among switches does not matter."""
    TURN = (Phase.TURN,)
    OPEN = (Phase.OPEN,)
    CLOSE = (Phase.CLOSE,)
    CLEAR = (Phase.CLEAR, Phase.GROW)


STAGES = tuple(Stage)
STAGE_OF: tuple[int, ...] = tuple(
    next(number for number, stage in enumerate(STAGES) if phase in stage.value) for phase in Phase
)
"""For every phase: the index of its stage."""


def change_for(intended: Entry | None, applied: Entry | None) -> tuple[Phase, Change] | None:
    """The change from the applied to the intended entry of a key, and its phase; None if they are equal."""
    if intended == applied:
        return None
    if intended is None:
        return _removal(applied)
    if isinstance(intended, FlowEntry):
        return _flow_phase(intended, applied if isinstance(applied, FlowEntry) else None), Change("add_flow", intended)
    if isinstance(intended, MeterEntry):
        if isinstance(applied, MeterEntry):
            return _meter_phase(intended, applied), Change("modify_meter", intended)
        return Phase.SHRINK, Change("add_meter", intended)
    return Phase.SHRINK, Change("add_group" if applied is None else "modify_group", intended)


def _removal(applied: Entry | None) -> tuple[Phase, Change] | None:
    if isinstance(applied, FlowEntry):
        return Phase.CLOSE if applied.table == 0 else Phase.CLEAR, Change("delete_flow", applied)
    if isinstance(applied, MeterEntry):
        return Phase.GROW, Change("delete_meter", applied)
    return None if applied is None else (Phase.GROW, Change("delete_group", applied))


def _meter_phase(intended: MeterEntry, applied: MeterEntry) -> Phase:
    if intended.rate_kbps < applied.rate_kbps:
        return Phase.SHRINK
    return Phase.OPEN if intended.meter_id >= FIRST_METER_ID else Phase.GROW


def _flow_phase(intended: FlowEntry, applied: FlowEntry | None) -> Phase:
    if intended.table == 0:
        return Phase.LAY if intended.priority == FRAGMENT_PRIORITY else Phase.OPEN
    if applied is None or applied._replace(cookie=intended.cookie) == intended:
        return Phase.LAY
    return Phase.TURN
