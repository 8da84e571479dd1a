"""What the service sees of the switches: things that happen to them, and things it can have done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Queue
from typing import Protocol

from controller.dataplane.entries import FlowEntry, MeterEntry, SwitchState
from controller.dataplane.update_order import Change

CONFIRM_S = 5.0
"""How long a switch may take to confirm a step."""
HUB_S = 60.0
"""How long the hub may take over everything; only a hub that has stopped ever does."""


@dataclass(frozen=True, slots=True)
class SwitchUp:
    """A switch has connected; `ports` by number: name and whether it is up."""

    datapath_id: int
    ports: Mapping[int, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class SwitchGone:
    """A switch's control connection is lost; it goes on forwarding by what it holds."""

    datapath_id: int


@dataclass(frozen=True, slots=True)
class PortChanged:
    """A port has come, gone, or changed its state; `up` is None when it is gone."""

    datapath_id: int
    port: int
    name: str
    up: bool | None


@dataclass(frozen=True, slots=True)
class LldpSeen:
    """A wiring-check frame that left (source, source_port) has arrived at (datapath_id, port)."""

    datapath_id: int
    port: int
    source: int
    source_port: int


@dataclass(frozen=True, slots=True)
class SwitchInDoubt:
    """A switch has refused something that nobody waits for any more: what it holds is not known now."""

    datapath_id: int


@dataclass(frozen=True, slots=True)
class Impostor:
    """Somebody with another's certificate said to be this switch, and was not let in. `names`: the certificate's."""

    datapath_id: int
    names: tuple[str, ...]
    address: str


SwitchEvent = SwitchUp | SwitchGone | PortChanged | LldpSeen | SwitchInDoubt | Impostor

ChangesByNumber = Mapping[int, Sequence[Change]]
"""What to tell each switch, by datapath id; a barrier follows, even where there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is told for so long: packets on their way get time to arrive."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a switch holds: what is ours, and a line for each thing that is not."""

    state: SwitchState
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlowCounter:
    """A flow entry and what has matched it so far."""

    entry: FlowEntry
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MeterCounter:
    """A meter and what has passed and been dropped so far; `packets` and `bytes` count all that came in."""

    entry: MeterEntry
    packets: int
    bytes: int
    dropped_packets: int
    dropped_bytes: int


class Switches(Protocol):
    """The switches, from any thread. Every future ends within its timeout, with a SwitchError if it must.

    SwitchDown: not connected, or lost meanwhile. SwitchTimeout: no confirmation. SwitchRefused: an OpenFlow error.
    """

    @property
    def events(self) -> Queue[SwitchEvent | None]:
        """What happens, in order; None wakes the reader for no reason of the switches'."""

    def expect(self, names: Mapping[int, str]) -> None:
        """Whose name the certificate of each switch must bear, where switches must show one, by datapath id."""

    def connected(self) -> frozenset[int]:
        """The datapath ids that are connected now."""

    def silent_s(self, datapath_id: int) -> float:
        """For how long a switch has owed an answer; 0 if it owes none."""

    def apply(self, phases: Iterable[ChangesByNumber | Pause], timeout_s: float) -> Future[None]:
        """Send each phase to its switches at once, each closed by a barrier; the next when all have answered.

        The next phase is asked for only then, in the switches' own thread. An error names all that did not do their
        part in `datapath_ids`.
        """

    def read_state(self, datapath_id: int, timeout_s: float, asking: Callable[[], None]) -> Future[Reading]:
        """What a switch holds; `asking` is called at the moment for which the answer will be true."""

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        """The counters of the entries under a cookie, and of these meters where the switch has them."""

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        """Send a frame out of each port, unconfirmed; nothing happens if the switch is not connected."""
