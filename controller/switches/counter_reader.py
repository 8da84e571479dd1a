"""Reads counters of meters and flow entries from the switches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from controller.dataplane.entries import COOKIE_RESERVATION_MASK, MeterEntry, cookie_of
from controller.dataplane.fragment_entries import FRAGMENT_COOKIE, fragment_entry
from controller.dataplane.meter_tokens import MeterCounts
from controller.dataplane.pipeline import reservation_meter
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, FlowCounter, MeterCounter, Switches
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.errors import SwitchError
from controller.switches.datapath_ids import DatapathIds
from controller.switches.fragment_counts import FragmentCount, FragmentCounts
from controller.switches.meter_totals import EndedMeter, MeterTotals

WHOLE_COOKIE = (1 << 64) - 1
READINGS = 5
"""How often a meter is read that is being changed, before its last known counters are returned."""
PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class SwitchCounters:
    """The counters of a reservation on one switch: its entries, the totals of its meters since its flows were admitted,
    and the fragments between the hosts of its flows at their first switch."""

    switch: str
    flows: list[FlowCounter]
    meters: list[MeterCounter]
    fragments: list[FragmentCount]


@dataclass(frozen=True, slots=True)
class _Request:
    """A reading under way. `number`: rises in the order of the requests. `begun`: see MeterTotals.begin."""

    switch: str
    number: int
    begun: Mapping[int, int | None]
    reply: Future[tuple[list[FlowCounter], list[MeterCounter]]]


class CounterReader:
    """Counters of reservations, read when asked for. Thread-safe.

    `meter_bursts`: the bursts of the meters of a reservation that should be installed, by flow.
    """

    def __init__(
        self, network: Network, switches: Switches, datapath_ids: DatapathIds, totals: MeterTotals,
        meter_bursts: Callable[[str], Mapping[str, int]],
    ) -> None:
        self._network = network
        self._switches = switches
        self._datapath_ids = datapath_ids
        self._totals = totals
        self._meter_bursts = meter_bursts
        self._fragments = FragmentCounts()
        self._lock = threading.Lock()
        self._requested = 0

    def of_reservation(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The reservation's counters on each of its switches, and the switches that could not be read."""
        switches = dict.fromkeys(name for placement in reservation.carried_placements for name in placement.switches)
        meters, cookie = self._meters_of(reservation), cookie_of(reservation.number, 0)
        requests = [
            self._request(name, cookie, COOKIE_RESERVATION_MASK, meters.get(name, ())) for name in switches
        ]
        counted = {fragment_entry(self._network, placement) for placement in reservation.carried_placements}
        self.fragments({switch for switch, _ in counted})
        read, unavailable = [], []
        for request in requests:
            fragments = [self._fragments.total(name, entry.key) for name, entry in counted if name == request.switch]
            try:
                flows, counters = self._datapath_ids.result(request.reply)
                read.append(SwitchCounters(request.switch, flows, self._totals_of(request, counters), fragments))
            except SwitchError:
                unavailable.append(request.switch)
        return read, unavailable

    def meters(self, reservation: Reservation) -> dict[str, list[MeterCounter]]:
        """The totals of the reservation's meters by switch, of the switches that can be read."""
        requests = [
            self._request(name, FRAGMENT_COOKIE, WHOLE_COOKIE, entries)
            for name, entries in self._meters_of(reservation).items()
        ]
        read = {}
        for request in requests:
            with suppress(SwitchError):
                _, counters = self._datapath_ids.result(request.reply)
                read[request.switch] = self._totals_of(request, counters)
        return read

    def _meters_of(self, reservation: Reservation) -> dict[str, list[MeterEntry]]:
        """The meters of the reservation by switch: each flow has one, on its first switch."""
        meters: dict[str, list[MeterEntry]] = {}
        bursts = self._meter_bursts(reservation.id)
        for placement in reservation.carried_placements:
            meter = reservation_meter(placement, bursts.get(placement.flow.name))
            meters.setdefault(placement.switches[0], []).append(meter)
        return meters

    def fragments(self, names: Iterable[str]) -> list[FragmentCount]:
        """All fragments counted at these switches; as of the last reading at switches that cannot be read."""
        counts: list[FragmentCount] = []
        for request in [self._request(name, FRAGMENT_COOKIE, WHOLE_COOKIE, ()) for name in names]:
            try:
                counters, _ = self._datapath_ids.result(request.reply)
                self._fragments.record(request.switch, request.number, counters)
            except SwitchError:
                pass
            counts += self._fragments.totals_at(request.switch)
        return counts

    def _totals_of(self, request: _Request, counters: Sequence[MeterCounter]) -> list[MeterCounter]:
        """The totals of these meters; those that were changed while they were read are read again."""
        totals: list[MeterCounter] = []
        for reading in range(READINGS):
            if reading:
                time.sleep(PAUSE_S)
                meters = [counter.entry for counter in counters]
                request = self._request(request.switch, FRAGMENT_COOKIE, WHOLE_COOKIE, meters)
                _, counters = self._datapath_ids.result(request.reply)
            unknown = []
            for counter in counters:
                key = request.switch, counter.entry.meter_id
                counts = MeterCounts(counter.packets, counter.bytes, counter.dropped_packets, counter.dropped_bytes)
                total = self._totals.record(key, request.begun[counter.entry.meter_id], request.number, counts)
                if total is None:
                    unknown.append(counter)
                else:
                    totals.append(MeterCounter(counter.entry, *total))
            counters = unknown
            if not counters:
                break
        known = [(each.entry, self._totals.known((request.switch, each.entry.meter_id))) for each in counters]
        return totals + [MeterCounter(entry, *total) for entry, total in known]

    def pop_ended(self) -> list[EndedMeter]:
        """The meters with drops of flows that have ended since the last call."""
        return self._totals.pop_ended()

    def _request(self, name: str, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry]) -> _Request:
        datapath_id = self._datapath_ids.datapath_id_of[name]
        with self._lock:
            self._requested += 1
            begun = {meter.meter_id: self._totals.begin((name, meter.meter_id)) for meter in meters}
            reply = self._switches.read_counters(datapath_id, cookie, cookie_mask, meters, CONFIRM_TIMEOUT_S)
            return _Request(name, self._requested, begun, reply)
