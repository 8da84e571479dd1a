"""What passes on every link, from the counters of the switches' ports."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, PortCounter, Switches
from controller.domain.network import Network
from controller.errors import SwitchError
from controller.switches.datapath_ids import DatapathIds

LEAST_INTERVAL_S = 0.5
"""Readings that are asked for within this time of the last are that one: the load of switches is bounded."""


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """L2 bytes carried by every directed link until `at_s` (Unix time), and the switches that could not be read."""

    at_s: float
    bytes_by_link: Mapping[str, int]
    unavailable: tuple[str, ...]


class LinkCounterReader:
    """Counters of links, read when asked for. Thread-safe."""

    def __init__(self, network: Network, switches: Switches, datapath_ids: DatapathIds) -> None:
        self._network = network
        self._switches = switches
        self._datapath_ids = datapath_ids
        self._lock = threading.Lock()
        self._last: tuple[float, LinkCounters] | None = None

    def read(self) -> LinkCounters:
        """Return the counters as of now, or of at most LEAST_INTERVAL_S ago."""
        with self._lock:
            if self._last is not None and time.monotonic() - self._last[0] < LEAST_INTERVAL_S:
                return self._last[1]
            found = self._read()
            self._last = time.monotonic(), found
            return found

    def _read(self) -> LinkCounters:
        """Read all switches: a link from a switch as sent by its port, one from a host as received at its other end."""
        names = [switch.name for switch in self._network.switches]
        requests = {
            name: self._switches.read_ports(self._datapath_ids.datapath_id_of[name], CONFIRM_TIMEOUT_S)
            for name in names
        }
        ports: dict[tuple[str, int], PortCounter] = {}
        unavailable = []
        for name, request in requests.items():
            try:
                ports |= {(name, counter.port): counter for counter in self._datapath_ids.result(request)}
            except SwitchError:
                unavailable.append(name)
        carried = {}
        for link in self._network.links.values():
            at_source = ports.get((link.source, link.source_port))
            at_end = ports.get((link.destination, link.destination_port))
            if at_source is not None:
                carried[link.name] = at_source.sent_bytes
            elif at_end is not None:
                carried[link.name] = at_end.received_bytes
        return LinkCounters(time.time(), carried, tuple(unavailable))
