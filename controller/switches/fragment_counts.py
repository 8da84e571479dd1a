"""Fragments between hosts with a reservation, as counted at their first switches, over resets of the switches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from controller.dataplane.entries import EntryKey
from controller.dataplane.southbound import FlowCounter


@dataclass(frozen=True, slots=True)
class FragmentCount:
    """Fragments that an entry of this key at this switch has counted since the controller started."""

    switch: str
    key: EntryKey
    packets: int
    bytes: int


@dataclass(slots=True)
class _Total:
    """Counters of earlier entries of a key, and what the present one counted last."""

    packets: int = 0
    bytes: int = 0
    last_packets: int = 0
    last_bytes: int = 0

    def record(self, packets: int, octets: int) -> None:
        """Add the counters of a reading; an entry that counts less than before is another one."""
        if packets < self.last_packets:
            self.packets += self.last_packets
            self.bytes += self.last_bytes
        self.last_packets, self.last_bytes = packets, octets


class FragmentCounts:
    """Totals that never fall while the controller runs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, EntryKey], _Total] = {}
        self._recorded: dict[str, int] = {}

    def record(self, switch: str, number: int, counters: Sequence[FlowCounter]) -> None:
        """Record a reading of all such entries of a switch, unless a later one is recorded already.

        `number`: rises in the order in which readings were requested.
        """
        with self._lock:
            if number < self._recorded.get(switch, 0):
                return
            self._recorded[switch] = number
            read = {(switch, counter.entry.key): counter for counter in counters}
            for place, counter in read.items():
                self._totals.setdefault(place, _Total()).record(counter.packets, counter.bytes)
            for place, total in self._totals.items():
                if place[0] == switch and place not in read:
                    total.record(0, 0)

    def total(self, switch: str, key: EntryKey) -> FragmentCount:
        """What was counted so far."""
        with self._lock:
            total = self._totals.get((switch, key), _Total())
            return FragmentCount(switch, key, total.packets + total.last_packets, total.bytes + total.last_bytes)

    def totals_at(self, switch: str) -> list[FragmentCount]:
        """All totals of a switch."""
        with self._lock:
            keys = [key for name, key in self._totals if name == switch]
        return [self.total(switch, key) for key in keys]
