"""The queue of switch events; of events that supersede each other it keeps the last, so its length is bounded."""

from __future__ import annotations

from queue import Queue

from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchEvent

Key = tuple[type, int, int]


class SwitchEventQueue(Queue[SwitchEvent | None]):
    """Events in the order of their last occurrence, one of each kind per switch and port."""

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - the signature of Queue
        self._events: dict[Key, SwitchEvent | None] = {}

    def _qsize(self) -> int:
        return len(self._events)

    def _put(self, item: SwitchEvent | None) -> None:
        key = _key(item)
        self._events.pop(key, None)
        self._events[key] = item

    def _get(self) -> SwitchEvent | None:
        return self._events.pop(next(iter(self._events)))


def _key(event: SwitchEvent | None) -> Key:
    if event is None:
        return type(None), 0, 0
    return type(event), event.datapath_id, event.port if isinstance(event, PortChanged | LldpReceived) else 0
