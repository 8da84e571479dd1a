"""What switches say of their ports, and which port hears which: links that are dark, wiring that is not as planned."""

from __future__ import annotations

import time

from controller.dataplane.lldp import PortKey, lldp_frame
from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchConnected, Switches
from controller.domain.network import DirectedLink, Network
from controller.switches.wiring_check import complaints

WIRING_CHECK_S = 3.0
SETTLED_S = 2.5 * WIRING_CHECK_S


class PortWatch:
    """The ports of all switches as they were last told; by one thread, what it says by any."""

    def __init__(self, network: Network, switches: Switches) -> None:
        self._network = network
        self._switches = switches
        self._number_of = {node.name: number for number, node in network.switch_by_datapath_id.items()}
        self._ports: dict[int, dict[int, bool]] = {}
        self._up_since_s: dict[int, float] = {}
        self._heard: dict[PortKey, PortKey] = {}
        self._checked_at_s = 0.0

    def take(self, event: SwitchConnected | PortChanged | LldpReceived) -> None:
        """Take note of something that has happened."""
        number = event.datapath_id
        if isinstance(event, LldpReceived):
            self._heard[number, event.port] = event.source, event.source_port
            return
        self._up_since_s[number] = time.monotonic()  # silence means nothing until the next checks
        if isinstance(event, SwitchConnected):
            self._ports[number] = {port: up for port, (_, up) in event.ports.items()}
            self._checked_at_s = 0.0
            return
        self._heard.pop((number, event.port), None)
        self._ports.setdefault(number, {}).pop(event.port, None)
        if event.up is not None:
            self._ports[number][event.port] = event.up

    def dark(self) -> frozenset[str]:
        """The directed links that a switch at one of their ends says are down."""
        return frozenset(link.name for link in self._network.links.values() if not self._is_up(link))

    def _is_up(self, link: DirectedLink) -> bool:
        """A link is up unless a switch at one of its ends has said otherwise."""
        ends = ((link.source, link.source_port), (link.destination, link.destination_port))
        for node, port in ends:
            ports = self._ports.get(self._number_of.get(node, -1))
            if ports is not None and not ports.get(port, False):
                return False
        return True

    def check_wiring(self) -> None:
        """Have every port say where it is, now and then."""
        now_s = time.monotonic()
        if now_s - self._checked_at_s < WIRING_CHECK_S:
            return
        self._checked_at_s = now_s
        for number in self._switches.connected():
            frames = {port: lldp_frame(number, port) for port, up in self._ports.get(number, {}).items() if up}
            self._switches.send_frames(number, frames)

    def complaints(self) -> list[str]:
        """What is not as the map says, one sentence each."""
        settled_before_s = time.monotonic() - SETTLED_S
        settled = frozenset(n for n, since_s in self._up_since_s.items() if since_s < settled_before_s)
        return complaints(self._network, self._switches.connected(), self._ports, self._heard, settled)
