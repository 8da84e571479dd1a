"""Switches read while they work: whether they hold what they should, and what they have counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from controller.dataplane.entries import COOKIE_RESERVATION_MASK, Entries, MeterEntry, cookie_of
from controller.dataplane.intended_state import ChangedKeys, merge_keys
from controller.dataplane.pipeline import reservation_meter
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, FlowCounter, MeterCounter, Reading, Switches
from controller.domain.events import ServiceEvent, SwitchReconciled, SwitchReport, SwitchSyncState
from controller.domain.reservation import Reservation
from controller.errors import SwitchError
from controller.switches.datapath_ids import Directory
from controller.switches.state_tracker import Difference, SwitchStateTracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SwitchCounters:
    """What one switch has counted for a reservation."""

    switch: str
    flows: list[FlowCounter]
    meters: list[MeterCounter]


class Inspection:
    """Reads switches and compares; changes none. `standing`: how a switch stands now."""

    def __init__(
        self,
        switches: Switches,
        directory: Directory,
        holdings: SwitchStateTracker,
        standing: Callable[[str], SwitchSyncState],
        tell: Callable[[ServiceEvent], None],
    ) -> None:
        self._switches = switches
        self._directory = directory
        self._holdings = holdings
        self._standing = standing
        self._tell = tell

    def compare(self, names: Iterable[str], repair: bool) -> tuple[list[SwitchReport], ChangedKeys]:
        """Read these switches and say what is not as it should be; with `repair`, what must be told to put it right."""
        reports, touched = [], []
        for name, future in [(name, self._read(name)) for name in names]:
            try:
                reading, expected = self._directory.result(future[0]), future[1]
            except SwitchError:
                reports.append(SwitchReport(name, self._standing(name)))
                continue
            if self._standing(name) != "in_step":
                reports.append(SwitchReport(name, self._standing(name), foreign=reading.foreign))
                continue
            difference, differs = self._holdings.drift_since(reading, expected)
            self.tell_of(name, difference)
            reports.append(
                SwitchReport(name, "in_step", difference.missing, difference.wrong, difference.foreign)
            )
            if repair:
                touched.append(self._holdings.accept_reading(name, reading, differs))
        return reports, merge_keys(*touched)

    def _read(self, name: str) -> tuple[Future[Reading], Entries]:
        expected: Entries = {}
        asking = lambda: expected.update(self._holdings.expected(name))  # noqa: E731
        return self._switches.read_state(self._directory.number_of[name], CONFIRM_TIMEOUT_S, asking), expected

    def tell_of(self, name: str, found: Difference) -> None:
        """Tell what a reading of a switch has shown."""
        if found.missing or found.wrong:
            log.warning("switch=%s missing=%d wrong=%d", name, len(found.missing), len(found.wrong))
        self._tell(SwitchReconciled(name, len(found.missing), len(found.wrong), len(found.foreign)))

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The reservation's counters on each of its switches, and the switches that could not be read."""
        meters: dict[str, list[MeterEntry]] = {}
        for placement in reservation.carried_placements:
            for name in placement.switches:
                meters.setdefault(name, [])
            meters[placement.switches[0]].append(reservation_meter(placement))
        cookie = cookie_of(reservation.number, 0)
        asked = {
            name: self._switches.read_counters(
                self._directory.number_of[name], cookie, COOKIE_RESERVATION_MASK, wanted, CONFIRM_TIMEOUT_S
            )
            for name, wanted in meters.items()
        }
        read, unavailable = [], []
        for name, future in asked.items():
            try:
                read.append(SwitchCounters(name, *self._directory.result(future)))
            except SwitchError:
                unavailable.append(name)
        return read, unavailable
