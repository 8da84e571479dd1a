"""The switches of the network by name: which are in step, which links are up, and how to bring them into step.

A switch is in step when it is connected and known to hold what it should. Used by the one writer only, except for
`wait_for_event`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty
from typing import TypeVar

from controller.entries import COOKIE_RESERVATION_MASK, MeterEntry, SwitchState, cookie_of
from controller.errors import SwitchDown, SwitchError, SwitchTimeout
from controller.forwarding import reservation_meter, wanted_states
from controller.network import DirectedLink, Network
from controller.reconcile import Change, ordered_changes
from controller.reservation import Reservation
from controller.switches import (
    FlowCounter,
    LldpSeen,
    MeterCounter,
    PortChanged,
    Switches,
    SwitchEvent,
    SwitchGone,
    SwitchUp,
)
from controller.wiring import PortKey, complaints, lldp_frame

log = logging.getLogger(__name__)

CONFIRM_S = 5.0
"""How long a switch may take to confirm a phase."""
HUB_S = 60.0
"""How long the hub may take over everything; only a hub that has stopped ever does."""
RETRY_S = 2.0
TICK_S = 1.0
WIRING_CHECK_S = 3.0
SETTLED_S = 2.5 * WIRING_CHECK_S

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SwitchCounters:
    """What one switch has counted for a reservation."""

    switch: str
    flows: list[FlowCounter]
    meters: list[MeterCounter]


class Fabric:
    """What is known of the switches, and the way to change it."""

    def __init__(self, network: Network, switches: Switches) -> None:
        self.down: frozenset[str] = frozenset()
        self._network = network
        self._switches = switches
        self._name_of = {number: node.name for number, node in network.switch_by_datapath_id.items()}
        self._number_of = {name: number for number, name in self._name_of.items()}
        self._present: dict[str, SwitchState] = {}
        self._retry_at_s: dict[str, float] = {}
        self._ports: dict[int, dict[int, bool]] = {}
        self._up_since_s: dict[int, float] = {}
        self._heard: dict[PortKey, PortKey] = {}
        self._checked_at_s = 0.0
        self._waiting: list[SwitchEvent] = []

    # Changing what switches hold ------------------------------------------------------------------------------------

    def in_step(self) -> frozenset[str]:
        """The switches that are connected and hold what they should."""
        connected = self._switches.connected()
        return frozenset(name for name in tuple(self._present) if self._number_of[name] in connected)

    def require(self, names: Iterable[str]) -> None:
        """Make sure that these switches can be told something now.

        Raises: SwitchDown with all that cannot.
        """
        missing = sorted(set(names) - self.in_step())
        if missing:
            sentence = f"Not connected or not yet in step: {', '.join(missing)}; nothing was changed."
            raise SwitchDown(sentence, switches=missing)

    def install(self, reservations: Iterable[Reservation]) -> None:
        """Bring every switch that is in step from what it holds to what these reservations want.

        Raises: SwitchError; then the switches concerned count as out of step, and `restore` puts them right.
        """
        wanted = wanted_states(self._network, reservations, self.down)
        present = {name: self._present[name] for name in self.in_step()}
        self._apply(ordered_changes(wanted, present), wanted)

    def restore(self, reservations: Iterable[Reservation], include_in_step: bool = False) -> None:
        """Bring connected switches that are out of step back into it, as far as they let us; never raises.

        `include_in_step`: something has changed for the others too.
        """
        present = self._read_out_of_step()
        if include_in_step:
            present |= {name: self._present[name] for name in self.in_step()}
        if not present:
            return
        wanted = wanted_states(self._network, reservations, self.down)
        while present:
            try:
                self._apply(ordered_changes(wanted, present), wanted)
            except SwitchError as error:
                failed = self._failed(error, present)
                present = {name: state for name, state in present.items() if name not in failed}
                continue
            self._present.update({name: wanted[name] for name in present})
            return

    def _apply(self, phases: Sequence[Mapping[str, Sequence[Change]]], wanted: Mapping[str, SwitchState]) -> None:
        touched = {name for phase in phases for name in phase}
        for name in touched:
            self._present.pop(name, None)
        numbered = [{self._number_of[name]: changes for name, changes in phase.items()} for phase in phases]
        if numbered:
            self._result(self._switches.apply(numbered, CONFIRM_S))
        self._present.update({name: wanted[name] for name in touched})

    def _read_out_of_step(self) -> dict[str, SwitchState]:
        now_s = time.monotonic()
        connected = {self._name_of[n] for n in self._switches.connected() if n in self._name_of}
        due = [n for n in sorted(connected - set(self._present)) if self._retry_at_s.get(n, 0.0) <= now_s]
        asked = {name: self._switches.read_state(self._number_of[name], CONFIRM_S) for name in due}
        read = {}
        for name, future in asked.items():
            try:
                read[name] = self._result(future)
            except SwitchError as error:
                self._failed(error, [name])
        return read

    def _failed(self, error: SwitchError, candidates: Collection[str]) -> Collection[str]:
        """The switches an error is about; they are left alone for a while."""
        named = error.facts.get("switches")
        failed = [name for name in named if name in candidates] if isinstance(named, list) else []
        for name in failed or candidates:
            self._retry_at_s[name] = time.monotonic() + RETRY_S
        log.warning("switches out of step=%s reason=%s", ",".join(failed or candidates), error.detail)
        return failed or candidates

    def _result(self, future: Future[Result]) -> Result:
        """The future's result; datapath ids in errors become names."""
        try:
            return future.result(HUB_S)
        except SwitchError as error:
            numbers = error.facts.get("datapath_ids")
            names = [self._name_of.get(n, f"{n:016x}") for n in numbers] if isinstance(numbers, list) else []
            sentence = error.detail
            for name in names:
                sentence = sentence.replace(f"{self._number_of.get(name, 0):016x}", name)
            raise type(error)(sentence, switches=names) from error
        except TimeoutError as error:
            raise SwitchTimeout("The switches' side of the controller does not answer.", switches=[]) from error

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The reservation's counters on each of its switches, and the switches that could not be read."""
        meters: dict[str, list[MeterEntry]] = {}
        for placement in reservation.carried:
            for name in placement.switches:
                meters.setdefault(name, [])
            meters[placement.switches[0]].append(reservation_meter(placement))
        cookie = cookie_of(reservation.number, 0)
        asked = {
            name: self._switches.read_counters(
                self._number_of[name], cookie, COOKIE_RESERVATION_MASK, wanted, CONFIRM_S
            )
            for name, wanted in meters.items()
        }
        read, unavailable = [], []
        for name, future in asked.items():
            try:
                read.append(SwitchCounters(name, *self._result(future)))
            except SwitchError:
                unavailable.append(name)
        return read, unavailable

    # What happens to switches ---------------------------------------------------------------------------------------

    def wait_for_event(self, timeout_s: float) -> None:
        """Wait until something happens or the time is over."""
        try:
            event = self._switches.events.get(timeout=timeout_s)
        except Empty:
            return
        if event is not None:
            self._waiting.append(event)

    def take_events(self) -> bool:
        """Take note of what has happened; whether other links are down than before."""
        while not self._switches.events.empty():
            self.wait_for_event(0)
        for event in self._waiting:
            self._take(event)
        self._waiting.clear()
        before, self.down = self.down, self._links_down()
        for link in sorted(before ^ self.down):
            log.warning("link=%s state=%s", link, "down" if link in self.down else "up")
        return before != self.down

    def _take(self, event: SwitchEvent) -> None:
        number = event.datapath_id
        if isinstance(event, LldpSeen):
            self._heard[number, event.port] = event.source, event.source_port
            return
        if isinstance(event, SwitchUp):
            self._ports[number] = {port: up for port, (_, up) in event.ports.items()}
            self._up_since_s[number] = time.monotonic()
            self._checked_at_s = 0.0
        elif isinstance(event, PortChanged):
            self._heard.pop((number, event.port), None)
            self._up_since_s[number] = time.monotonic()  # silence means nothing until the next checks
            self._ports.setdefault(number, {}).pop(event.port, None)
            if event.up is not None:
                self._ports[number][event.port] = event.up
            return
        self._present.pop(self._name_of.get(number, ""), None)
        self._retry_at_s.pop(self._name_of.get(number, ""), None)
        what = "gone" if isinstance(event, SwitchGone) else "up"
        log.info("switch=%s state=%s", self._name_of.get(number, f"{number:016x}"), what)

    def _links_down(self) -> frozenset[str]:
        return frozenset(link.name for link in self._network.links.values() if not self._is_up(link))

    def _is_up(self, link: DirectedLink) -> bool:
        """A link is up unless a switch at one of its ends has said otherwise."""
        ends = ((link.source, link.source_port), (link.destination, link.destination_port))
        for node, port in ends:
            ports = self._ports.get(self._number_of.get(node, -1))
            if ports is not None and not ports.get(port, False):
                return False
        return True

    # Wiring ---------------------------------------------------------------------------------------------------------

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
