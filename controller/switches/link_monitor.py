"""Which links are down: those that switches say are dark, and those that their operators have taken out of service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from controller.dataplane.southbound import LldpReceived, PortChanged, SwitchConnected, Switches
from controller.domain.events import LinkChanged, ServiceEvent
from controller.domain.network import Network
from controller.switches.port_monitor import PortWatch
from controller.switches.span_status import SpanState, changes, links_of, span_states

log = logging.getLogger(__name__)


class LinkWatch:
    """Which links are down and which spans out of service, as of the last look; by one thread, read by any."""

    def __init__(self, network: Network, switches: Switches, tell: Callable[[ServiceEvent], None]) -> None:
        self.down: frozenset[str] = frozenset()
        self.closed: frozenset[str] = frozenset()
        self._states: Mapping[str, SpanState] = {}
        self._network = network
        self._ports = PortWatch(network, switches)
        self._tell = tell

    def take(self, event: SwitchConnected | PortChanged | LldpReceived) -> None:
        """Take note of something that has happened to a switch's ports."""
        self._ports.take(event)

    def close(self, spans: frozenset[str]) -> None:
        """From the next look on, exactly these spans are out of service, besides what is dark."""
        self.closed = spans

    def look(self) -> bool:
        """See which links are down by now, and tell of every change; whether they are others than before."""
        before, states = self.down, self._states
        dark = self._ports.dark()
        self._states = span_states(self._network, dark, self.closed)
        self.down = dark | links_of(self._network, self.closed)
        for change in changes(self._network, states, self._states):
            log.warning("alarm span=%s state=%s: %s", change.span, change.state, change.text)
            self._tell(change)
        for link in sorted(before ^ self.down):
            log.warning("link=%s state=%s", link, "down" if link in self.down else "up")
            self._tell(LinkChanged(link, link not in self.down))
        return before != self.down

    def check_wiring(self) -> None:
        """Have every port say where it is, now and then."""
        self._ports.check_wiring()

    def complaints(self) -> list[str]:
        """What is not as the map says, one sentence each."""
        return self._ports.complaints()
