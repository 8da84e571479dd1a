"""Port states reported by switches, and the source of LLDP frames received at each port: dark links, wiring errors."""

from __future__ import annotations

import time

from controller.dataplane.lldp import PortKey, lldp_frame
from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchConnected, Switches
from controller.domain.network import DirectedLink, Network
from controller.switches.wiring_check import wiring_problems

WIRING_CHECK_S = 3.0
SETTLED_S = 2.5 * WIRING_CHECK_S


class PortMonitor:
    """The last reported ports of all switches. Written by one thread, read by any."""

    def __init__(self, network: Network, switches: Switches) -> None:
        self._network = network
        self._switches = switches
        self._datapath_id_of = {node.name: number for number, node in network.switch_by_datapath_id.items()}
        self._ports: dict[int, dict[int, bool]] = {}
        self._up_since_s: dict[int, float] = {}
        self._received: dict[PortKey, PortKey] = {}
        self._checked_at_s = 0.0

    def record(self, event: SwitchConnected | PortChanged | LldpReceived) -> None:
        """Record an event."""
        number = event.datapath_id
        if isinstance(event, LldpReceived):
            self._received[number, event.port] = event.source, event.source_port
            return
        self._up_since_s[number] = time.monotonic()  # missing frames are not significant until the next checks
        if isinstance(event, SwitchConnected):
            self._ports[number] = {port: up for port, (_, up) in event.ports.items()}
            self._checked_at_s = 0.0
            return
        self._received.pop((number, event.port), None)
        self._ports.setdefault(number, {}).pop(event.port, None)
        if event.up is not None:
            self._ports[number][event.port] = event.up

    def dark_links(self) -> frozenset[str]:
        """The directed links that a switch at either end reports as down."""
        return frozenset(link.name for link in self._network.links.values() if not self._is_up(link))

    def _is_up(self, link: DirectedLink) -> bool:
        """Whether no switch at either end reports the link as down."""
        ends = ((link.source, link.source_port), (link.destination, link.destination_port))
        for node, port in ends:
            ports = self._ports.get(self._datapath_id_of.get(node, -1))
            if ports is not None and not ports.get(port, False):
                return False
        return True

    def check_wiring(self) -> None:
        """Send an LLDP frame out of every port, every WIRING_CHECK_S seconds."""
        now_s = time.monotonic()
        if now_s - self._checked_at_s < WIRING_CHECK_S:
            return
        self._checked_at_s = now_s
        for number in set(self._ports) - set(self._network.switch_by_datapath_id) - self._switches.connected().keys():
            self._ports.pop(number)
            self._up_since_s.pop(number, None)
        for number in self._switches.connected():
            frames = {port: lldp_frame(number, port) for port, up in self._ports.get(number, {}).items() if up}
            self._switches.send_frames(number, frames)

    def wiring_problems(self) -> list[str]:
        """The differences between cabling and map, one sentence each."""
        settled_before_s = time.monotonic() - SETTLED_S
        settled = frozenset(n for n, since_s in self._up_since_s.items() if since_s < settled_before_s)
        return wiring_problems(self._network, self._switches.connected(), self._ports, self._received, settled)
