"""The links that are down: reported as dark by switches, or taken out of service by operators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchConnected, Switches
from controller.domain.events import LinkChanged, ServiceEvent
from controller.domain.network import Network
from controller.switches.port_monitor import PortMonitor
from controller.switches.span_status import SpanState, links_of, span_changes, span_states

log = logging.getLogger(__name__)


class LinkMonitor:
    """Links that are down and spans out of service, as of the last `update`. Written by one thread, read by any."""

    def __init__(self, network: Network, switches: Switches, publish: Callable[[ServiceEvent], None]) -> None:
        self.down: frozenset[str] = frozenset()
        self.out_of_service: frozenset[str] = frozenset()
        self._states: Mapping[str, SpanState] = {}
        self._network = network
        self._ports = PortMonitor(network, switches)
        self._publish = publish

    def record(self, event: SwitchConnected | PortChanged | LldpReceived) -> None:
        """Record an event of a port."""
        self._ports.record(event)

    def set_out_of_service(self, spans: frozenset[str]) -> None:
        """Set the spans that are out of service; takes effect with the next `update`."""
        self.out_of_service = spans

    def update(self) -> bool:
        """Recompute the links that are down and publish every change; whether there are any."""
        before, states = self.down, self._states
        dark = self._ports.dark_links()
        self._states = span_states(self._network, dark, self.out_of_service)
        self.down = dark | links_of(self._network, self.out_of_service)
        for change in span_changes(self._network, states, self._states):
            log.warning("alarm span=%s state=%s: %s", change.span, change.state, change.text)
            self._publish(change)
        for link in sorted(before ^ self.down):
            log.warning("link=%s state=%s", link, "down" if link in self.down else "up")
            self._publish(LinkChanged(link, link not in self.down))
        return before != self.down

    def check_wiring(self) -> None:
        """Send the LLDP frames of the wiring check if due."""
        self._ports.check_wiring()

    def wiring_problems(self) -> list[str]:
        """The differences between cabling and map, one sentence each."""
        return self._ports.wiring_problems()
