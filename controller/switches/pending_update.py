"""An update of switches in progress."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from controller.dataplane.entries import Key
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.update_order import DELETES, Change, Stage
from controller.errors import SwitchDown
from controller.failpoints import FailPoint

FAIL_POINT_OF: Mapping[Stage, FailPoint] = {
    Stage.LAY: FailPoint.LAID,
    Stage.TURN: FailPoint.TURNED,
    Stage.OPEN: FailPoint.OPENED,
    Stage.CLOSE: FailPoint.CLOSED,
    Stage.CLEAR: FailPoint.CLEARED,
}

KeyedChange = tuple[int, Key, Change]
"""The first is its place in the order of sending: by phase; meters and groups before flow entries that refer to them.
"""

StageChanges = dict[str, list[Change]]
"""By switch."""


class PendingUpdate:
    """An update in progress; `changes`: those still to send, by stage and switch, as of `revision`."""

    def __init__(self, changed_keys: ChangedKeys, require_all: bool) -> None:
        self.changed_keys = changed_keys
        self.require_all = require_all
        self.changes: list[dict[str, list[KeyedChange]]] = []
        self.modifies_buckets = False
        """Whether one of them modifies the meter of a reserved flow."""
        self.revision: int | None = None
        self.moved: StageChanges = {}
        """The changes of the last stage sent that move tokens."""
        self.drawn: set[tuple[str, Key]] | None = None
        """The meters that tokens were taken out of, where these are not all that the stage modifies."""

    def stage(self, number: int) -> dict[str, Iterator[Change]]:
        """The changes of the stage of that number, in no particular order."""
        changes = self.changes[number] if self.changes else {}
        return {name: (change for *_, change in found) for name, found in changes.items()}

    def take(self, number: int) -> dict[str, list[KeyedChange]]:
        """Remove and return the changes of the stage of that number that are to be sent next."""
        found, drawn = self.changes[number], self.drawn
        if drawn is None:
            self.changes[number] = {}
            return found
        chosen: dict[str, list[KeyedChange]] = {}
        rest: dict[str, list[KeyedChange]] = {}
        for name, listed in found.items():
            for change in listed:
                (chosen if (name, change[1]) in drawn else rest).setdefault(name, []).append(change)
        self.changes[number] = rest
        return chosen

    def deletes(self, number: int) -> bool:
        """Whether the stage of that number removes entries, which packets may still need."""
        return any(change.kind in DELETES for found in self.changes[number].values() for *_, change in found)


def not_in_step(names: Collection[str]) -> SwitchDown:
    """The error for switches that cannot be updated."""
    switches = sorted(names)
    sentence = f"Not connected or not yet in step: {', '.join(switches)}; nothing was changed."
    return SwitchDown(sentence, switches=switches)
