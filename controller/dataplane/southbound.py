"""The southbound interface: switch events, requests to switches, counters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Queue
from typing import NamedTuple, Protocol

from controller.dataplane.entries import Entries, FlowEntry, MeterEntry
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.dataplane.update_order import Change

CONFIRM_TIMEOUT_S = 5.0
"""Time limit for a switch to confirm one stage of an update."""
READ_TIMEOUT_S = 20.0
"""Time limit for a switch that has connected to describe all its entries, of which there may be tens of thousands."""
HUB_TIMEOUT_S = 60.0
"""Time limit for any call of the southbound interface; exceeded only if its thread has stopped."""


@dataclass(frozen=True, slots=True)
class SwitchConnected:
    """A switch has connected; `ports` by number: name and whether the port is up."""

    datapath_id: int
    ports: Mapping[int, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class SwitchDisconnected:
    """A switch's control connection is lost; it keeps forwarding with its entries."""

    datapath_id: int


@dataclass(frozen=True, slots=True)
class PortChanged:
    """A port was added, removed, or changed its state; `up` is None after removal."""

    datapath_id: int
    port: int
    name: str
    up: bool | None


@dataclass(frozen=True, slots=True)
class LldpReceived:
    """A wiring-check frame sent from (source, source_port) was received at (datapath_id, port)."""

    datapath_id: int
    port: int
    source: int
    source_port: int


@dataclass(frozen=True, slots=True)
class SwitchStateUnknown:
    """A switch has refused a request after its timeout, so its state is unknown."""

    datapath_id: int


@dataclass(frozen=True, slots=True)
class CertificateMismatch:
    """A connection claimed to be this switch with a certificate for `names` and was rejected."""

    datapath_id: int
    names: tuple[str, ...]
    address: str


@dataclass(frozen=True, slots=True)
class DuplicateConnection:
    """A further connection claimed to be this switch, which is connected and answers; the further one was refused.

    `names`: those of its certificate; empty without TLS.
    """

    datapath_id: int
    names: tuple[str, ...]
    address: str


SwitchEvent = (
    SwitchConnected
    | SwitchDisconnected
    | PortChanged
    | LldpReceived
    | SwitchStateUnknown
    | CertificateMismatch
    | DuplicateConnection
)

ChangesByDatapath = Mapping[int, Sequence[Change]]
"""The changes for each switch; a barrier follows even where there are none."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A delay between stages, for packets in flight to arrive."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """State read from a switch: its managed entries, and a line for each foreign one."""

    entries: Entries
    foreign: tuple[str, ...] = ()


class FlowCounter(NamedTuple):
    """A flow entry and its counters."""

    entry: FlowEntry
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MeterCounter:
    """A meter and its counters; `packets` and `bytes` include dropped packets."""

    entry: MeterEntry
    packets: int
    bytes: int
    dropped_packets: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class PortCounter:
    """What a port has sent and received, L2 bytes."""

    port: int
    sent_bytes: int
    received_bytes: int


class Switches(Protocol):
    """Thread-safe access to the switches. Every future completes within its timeout, if need be with a SwitchError.

    SwitchDown: not connected, or lost meanwhile. SwitchTimeout: no confirmation. SwitchRefused: an OpenFlow error.
    """

    @property
    def events(self) -> Queue[SwitchEvent | None]:
        """Switch events in order; None only wakes the reader."""

    def expect(self, names: Mapping[int, str], ports: Mapping[int, Collection[int]]) -> None:
        """Set, by datapath id, the name that the certificate of a switch must contain, if TLS is used, and its ports.

        Changes of other ports are not reported.
        """

    def connected(self) -> Mapping[int, int]:
        """The connected switches by datapath id, each with the number of its connection, which no other one had."""

    def silent_s(self, datapath_id: int) -> float:
        """Age of the oldest unanswered request to a switch; 0 if there is none."""

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        """Send each stage to its switches at once, closed by a barrier; the next when all have confirmed.

        The iterator is advanced only then, in the thread of the southbound interface. An error names in
        `datapath_ids` all switches that did not confirm.
        """

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:
        """Read the state of a switch; `on_request` is called at the moment that the state will reflect."""

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        """Read the counters of the entries of a cookie, and of those of these meters that the switch has."""

    def read_ports(self, datapath_id: int, timeout_s: float) -> Future[list[PortCounter]]:
        """Read the counters of all ports of a switch."""

    def read_capabilities(self, datapath_id: int, timeout_s: float) -> Future[SwitchCapabilities]:
        """Ask a switch what it can do; a question that it refuses is left open."""

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        """Send a frame out of each port, unconfirmed; no effect if the switch is not connected."""
