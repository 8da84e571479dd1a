"""Keeps the switches of the network in step with their intended state.

A switch is in step when it is connected and its applied state is known and equal to its intended state. Updates may
come from several threads at once; switch events are processed by one (`process_events`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import NamedTuple

from controller.dataplane.entries import MeterEntry, meters_in
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import (
    CONFIRM_TIMEOUT_S,
    READ_TIMEOUT_S,
    CertificateMismatch,
    DuplicateConnection,
    LldpReceived,
    PortChanged,
    Reading,
    SwitchConnected,
    Switches,
    SwitchEvent,
)
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.domain.events import (
    ServiceEvent,
    SwitchChanged,
    SwitchReport,
    SwitchSyncState,
)
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.errors import SwitchError
from controller.switches.counter_reader import CounterReader
from controller.switches.datapath_ids import DatapathIds
from controller.switches.gate_control import GateController
from controller.switches.impostor_warnings import ImpostorWarnings
from controller.switches.link_counters import LinkCounterReader
from controller.switches.link_monitor import LinkMonitor
from controller.switches.meter_totals import MeterKey
from controller.switches.pending_update import not_in_step
from controller.switches.state_tracker import NO_METERS, MeterBursts, SwitchStateTracker
from controller.switches.update_sender import UpdateSender
from controller.switches.verifier import StateVerifier

log = logging.getLogger(__name__)

RETRY_S = 2.0


class FirstReading(NamedTuple):
    """What a switch held when it was read for the first time since the start."""

    switch: str
    connection: int
    reading: Reading


class SwitchManager:
    """Coordinates state tracker, updates, gates, verification and link monitoring of all switches."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        publish: Callable[[ServiceEvent], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.links = LinkMonitor(network, switches, publish)
        self.tracker = SwitchStateTracker(network, clock)
        self._switches = switches
        self._publish = publish
        self._datapath_ids = DatapathIds(network)
        self.updates = UpdateSender(switches, self._datapath_ids, self.tracker, self._set_out_of_step)
        self.verifier = StateVerifier(switches, self._datapath_ids, self.tracker, self.sync_state, publish)
        self.counters = CounterReader(network, switches, self._datapath_ids, self.tracker.buckets.totals,
                                      self.tracker.meter_bursts)
        self.link_counters = LinkCounterReader(network, switches, self._datapath_ids)
        self._gates = GateController(self.tracker, self.updates.synchronize, publish, clock)
        switches.expect(self._datapath_ids.name_of, ports_of_map(network))
        self._lock = threading.Lock()
        self._in_step: dict[str, int] = {}
        """The switches in step, each with the connection over which it was brought there: never over another."""
        self._resynchronizing: set[str] = set()
        self._never_read = {node.name for node in network.switches}
        self._first_readings: deque[FirstReading] = deque()
        self._retry_at_s: dict[str, float] = {}
        self._impostor_warnings = ImpostorWarnings(self._datapath_ids, publish)
        self._events: list[SwitchEvent] = []

    def start(self) -> None:
        """Start to open and close periodic windows."""
        self._gates.start()

    def stop(self) -> None:
        """Stop; the gates stay as they are."""
        self._gates.stop()

    # Intended state -------------------------------------------------------------------------------------------------

    def set_intended(
        self, changed: Mapping[str, Reservation | None], meter_bursts: MeterBursts = NO_METERS
    ) -> ChangedKeys:
        """Set the reservations that should be installed; None: removed.

        `meter_bursts`: of these reservations, and of others whose meters grow.
        No switch is changed before one of the methods of `updates` is called with the result.
        """
        had_windows = self.tracker.has_windows
        keys = self.tracker.set_intended(changed, meter_bursts)
        if had_windows or self.tracker.has_windows:
            self._gates.reschedule()
        return keys

    def on_clock_step(self) -> None:
        """Adapt the gates to a clock that has stepped."""
        self._gates.reschedule()

    def set_links_down(self) -> ChangedKeys:
        """Adapt the intended state to the links that are down."""
        return self.tracker.set_links_down(self.links.down)

    # Status ---------------------------------------------------------------------------------------------------------

    def in_step(self) -> frozenset[str]:
        """The switches that are in step."""
        connected = self._switches.connected()
        ids = self._datapath_ids.datapath_id_of
        return frozenset([name for name, number in self._in_step.items() if connected.get(ids[name]) == number])

    def require_in_step(self, names: Iterable[str]) -> None:
        """Check that these switches can be updated now.

        Raises: SwitchDown with all that cannot.
        """
        missing = set(names) - self.in_step()
        if missing:
            raise not_in_step(missing)

    def sync_state(self, name: str) -> SwitchSyncState:
        """Whether a switch is in step, out of step, or away."""
        connection = self._switches.connected().get(self._datapath_ids.datapath_id_of[name])
        if connection is None:
            return "away"
        return "in_step" if self._in_step.get(name) == connection else "out_of_step"

    def silent_s(self, name: str) -> float:
        """Age of the oldest unanswered request to a switch; 0 if there is none."""
        return self._switches.silent_s(self._datapath_ids.datapath_id_of[name])

    def capabilities(self, name: str) -> SwitchCapabilities:
        """Ask a switch what it can do.

        Raises: SwitchDown, SwitchTimeout.
        """
        number = self._datapath_ids.datapath_id_of[name]
        return self._datapath_ids.result(self._switches.read_capabilities(number, READ_TIMEOUT_S))

    def _set_out_of_step(self, names: Collection[str], reason: str) -> None:
        self.tracker.forget(names)
        for name in names:
            self._retry_at_s[name] = time.monotonic() + RETRY_S
        self._set_in_step(dict.fromkeys(names))
        log.warning("switches out of step=%s reason=%s", ",".join(sorted(names)), reason)

    def _set_in_step(self, connections: Mapping[str, int | None]) -> None:
        """Note the connections over which these switches are in step; None: they are not."""
        with self._lock:
            before = self._in_step
            self._in_step = {
                name: number for name, number in {**before, **connections}.items() if number is not None
            }
        for name in sorted(name for name, number in connections.items() if before.get(name) != number):
            self._publish(SwitchChanged(name, self.sync_state(name)))

    def read_meters(self) -> dict[MeterKey, MeterEntry]:
        """The meters that the connected switches hold."""
        names, connected = self._datapath_ids.name_of, self._switches.connected()
        readings = {
            names[number]: self._switches.read_state(number, READ_TIMEOUT_S, lambda: None)
            for number in connected if number in names
        }  # fmt: skip
        meters = {}
        for name, reading in readings.items():
            with suppress(SwitchError):
                entries = self._datapath_ids.result(reading).entries
                meters.update({(name, meter.meter_id): meter for meter in meters_in(entries)})
        return meters

    # Resynchronization and verification -----------------------------------------------------------------------------

    def resynchronize(self) -> None:
        """Start to bring connected switches that are out of step to their intended state; does not block."""
        now_s = time.monotonic()
        names = self._datapath_ids.name_of
        connections = {names[number]: each for number, each in self._switches.connected().items() if number in names}
        for name in sorted(connections.keys() - self.in_step() - self._resynchronizing):
            if self._retry_at_s.get(name, 0.0) <= now_s:
                self._resynchronizing.add(name)
                number = self._datapath_ids.datapath_id_of[name]
                reading = self._switches.read_state(number, READ_TIMEOUT_S, lambda: None)
                reading.add_done_callback(partial(self._on_state_read, name, connections[name]))

    def _on_state_read(self, name: str, connection: int, done: Future[Reading]) -> None:
        error = done.exception()
        if error is not None:
            self._set_out_of_step([name], str(error))
            self._on_resynchronized(name, connection, error)
        elif name in self._never_read:
            self._first_readings.append(FirstReading(name, connection, done.result()))
            self.wake()
        else:
            self._synchronize(name, connection, done.result())

    def pop_first_readings(self) -> list[FirstReading]:
        """The readings of switches that were never read before, each to be handed to `synchronize_first`."""
        return [self._first_readings.popleft() for _ in range(len(self._first_readings))]

    def synchronize_first(self, first: FirstReading) -> None:
        """Start to bring a switch to its intended state after its first reading; does not block."""
        connected = self._switches.connected().get(self._datapath_ids.datapath_id_of[first.switch])
        if connected == first.connection:
            self._never_read.discard(first.switch)
            self._synchronize(first.switch, first.connection, first.reading)
        else:
            self._resynchronizing.discard(first.switch)

    def _synchronize(self, name: str, connection: int, reading: Reading) -> None:
        changed = self.tracker.set_applied(name, reading.entries)
        self.verifier.report(name, self.tracker.drift_of(name, reading, changed))
        update = self.updates.synchronize(changed)
        update.add_done_callback(lambda done: self._on_resynchronized(name, connection, done.exception()))

    def _on_resynchronized(self, name: str, connection: int, error: BaseException | None) -> None:
        self._resynchronizing.discard(name)
        if error is None and name in self.tracker.known_switches():
            log.info("switch=%s is in step", name)
            self._set_in_step({name: connection})
        self.wake()

    def verify(self, names: Iterable[str], repair: bool) -> list[SwitchReport]:
        """Read these switches back and report the drift from the intended state; with `repair`, correct it."""
        reports, changed = self.verifier.compare(names, repair)
        self.updates.settle(changed, CONFIRM_TIMEOUT_S)
        return reports

    # Switch events --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """End the current `wait_for_event`."""
        self._switches.events.put(None)

    def wait_for_event(self, timeout_s: float) -> None:
        """Wait for the next event."""
        try:
            event = self._switches.events.get(timeout=timeout_s)
        except Empty:
            return
        if event is not None:
            self._events.append(event)

    def process_events(self) -> bool:
        """Process all pending events; whether the set of links that are down has changed."""
        while not self._switches.events.empty():
            self.wait_for_event(0)
        for event in self._events:
            self._process(event)
        self._events.clear()
        return self.links.update()

    def _process(self, event: SwitchEvent) -> None:
        number = event.datapath_id
        if isinstance(event, SwitchConnected | PortChanged | LldpReceived):
            self.links.record(event)
        if isinstance(event, PortChanged | LldpReceived):
            return
        if isinstance(event, CertificateMismatch | DuplicateConnection):
            self._impostor_warnings.warn(event)
            return
        name = self._datapath_ids.name_of.get(number)
        level = logging.INFO if isinstance(event, SwitchConnected) or name is None else logging.WARNING
        log.log(level, "switch=%s event=%s", name or f"{number:016x}", type(event).__name__)
        if name is not None:
            self.tracker.forget([name])
            self._retry_at_s.pop(name, None)
            self._set_in_step({name: None})


def ports_of_map(network: Network) -> dict[int, frozenset[int]]:
    """The ports of every switch that the map uses, by datapath id."""
    return {
        number: frozenset(link.source_port for link in network.links_from(node.name))
        for number, node in network.switch_by_datapath_id.items()
    }
