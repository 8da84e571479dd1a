"""Takes over the live reservations of the ledger: all at a start, or bit by bit while another controller writes them.

A standby keeps up with the ledger, so that at a takeover only the last changes are left: calendar, bounds and the
intended state of the switches are computed by then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from controller.admission.limit_checks import check_limits
from controller.calculus.failure_bounds import FlowKey
from controller.calculus.network_bounds import NoBound
from controller.dataplane.entries import MeterEntry
from controller.domain.reservation import Reservation, State
from controller.errors import LatencyNotMet
from controller.optical.lightpath_design import is_valid_placement
from controller.service.reservation_times import as_of
from controller.service.state import INSTALLED, ServiceState
from controller.storage.ledger import unavailable
from controller.switches.meter_totals import MeterKey

log = logging.getLogger(__name__)

AT_ONCE = 50
"""Reservations that are taken over together; the lock is free in between, and a standby may stop."""

READ_METERS_S, READ_METERS_SHARE = 5.0, 0.05
"""A standby reads the meters of the switches every READ_METERS_S, or so that it takes no more than this share of time.
"""

MAP_CHANGED = "Its path is not possible in the current map."


class ReservationLoader:
    """The live reservations as the ledger has them. Used by one thread at a time."""

    def __init__(self, state: ServiceState) -> None:
        self._state, self._store = state, state.store
        self._versions: dict[str, str] = {}
        """Of the rows that are taken over, by id."""
        self._recorded: dict[str, Reservation] = {}
        self._without_entries: set[str] = set()
        """Ids of reservations whose entries are not in the intended state as they are now."""
        self._is_analysed = False
        self._next_reading_s = 0.0

    def follow(self, is_stopping: Callable[[], bool]) -> None:
        """Take over what has changed in the ledger since the last call; ends early if it is to stop.

        Raises: SQLAlchemyError, OSError.
        """
        self._state.clock.follow_alone()
        changes = self._state.ledger.live_rows.changes(self._versions)
        with self._state.lock:
            self._forget(changes.ended)
        changed = sorted(changes.changed, key=lambda row: (row.reservation.created_at_s, row.reservation.number))
        for first in range(0, len(changed), AT_ONCE):
            if is_stopping():
                return
            with self._state.lock:
                for row in changed[first : first + AT_ONCE]:
                    self._take(row.reservation)
                    self._versions[row.reservation.id] = row.version
        if not is_stopping():
            self._analyse()
            self.intend(is_stopping)
            if time.monotonic() >= self._next_reading_s and not is_stopping():
                began_s = time.monotonic()
                self._take_meters(self._state.switches.read_meters(), is_stopping)
                self._next_reading_s = began_s + max(READ_METERS_S, (time.monotonic() - began_s) / READ_METERS_SHARE)

    def load(self) -> None:
        """Take over the rest: no other controller writes the ledger any more. The entries are left to `intend`.

        Raises: LedgerUnavailable.
        """
        self._state.clock.follow_alone()  # a standby was built long before
        try:
            changes = self._state.ledger.live_rows.changes(self._versions)
        except (SQLAlchemyError, OSError) as error:
            raise unavailable("read") from error
        with self._state.lock:
            self._state.switches.tracker.forget_meter_changes()
            self._forget(changes.ended)
            for row in changes.changed:
                self._take(row.reservation)
            for reservation in tuple(self._recorded.values()):
                self._begin(reservation)
            self._analyse()
            self._state.switches.links.set_out_of_service(self._state.ledger.closed_spans())
        log.info("loaded reservations=%d changed=%d", len(self._recorded), len(changes.changed))
        self._recorded.clear()

    def intend(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Set the intended state of what was loaded; requests are answered meanwhile."""
        names = sorted(self._without_entries)
        for first in range(0, len(names), AT_ONCE):
            if is_stopping():
                return
            with self._state.lock:
                self._intend(names[first : first + AT_ONCE])

    def _take_meters(self, installed: Mapping[MeterKey, MeterEntry], is_stopping: Callable[[], bool]) -> None:
        """Intend meters as the active controller has installed them: which it gave depends on what was live before."""
        bursts = list(_bursts(self._recorded.values(), installed).items())
        for first in range(0, len(bursts), AT_ONCE):
            if is_stopping():
                return
            with self._state.lock:
                before = self._store.live
                self._store.live = before.with_installed_meters(dict(bursts[first : first + AT_ONCE]))
                if self._store.live is not before:
                    self._state.set_intended({})
        with self._state.lock:
            self._analyse()

    def adopt_meters(self, switch: str, installed: Iterable[MeterEntry]) -> None:
        """Intend the meters that a switch has from before the start, where they suffice, so that they stay as they are.

        Not where a limit would be exceeded: the map may have changed, or others may have been admitted meanwhile.
        """
        with self._state.lock:
            meters = {(switch, meter.meter_id): meter for meter in installed}
            live = self._store.live.with_installed_meters(_bursts(self._store.published_live(), meters))
            if live is self._store.live:
                return
            with suppress(NoBound, LatencyNotMet):
                live = live.analysed_afresh()
                check_limits(live, live.bounds, live.bounds.limited_flows(), "")
                self._store.live = live
                self._state.set_intended({})
                self._state.switches.tracker.forget_meter_changes(switch)

    def _take(self, reservation: Reservation) -> None:
        self._recorded[reservation.id] = reservation
        if self._is_possible(reservation):
            self._store.revert(reservation)
            self._store.show(reservation)
            self._without_entries.add(reservation.id)

    def _forget(self, ended: Iterable[str]) -> None:
        for name in ended:
            self._versions.pop(name, None)
            self._recorded.pop(name, None)
            self._store.forget(name)
            self._without_entries.add(name)

    def _begin(self, reservation: Reservation) -> None:
        """Give a reservation times that are possible now; it fails if the map no longer has its path.

        Due times are for the lifecycle thread.
        """
        if not self._is_possible(reservation):
            self._state.record_later(reservation.with_state(State.FAILED, MAP_CHANGED))
            return
        loaded = as_of(self._state.clock(), reservation)
        if loaded != reservation:
            self._store.revert(loaded)
            self._store.show(loaded)
            self._state.writer.queue(loaded)

    def _is_possible(self, reservation: Reservation) -> bool:
        network = self._state.network
        return all(is_valid_placement(network, placement) for placement in reservation.placements)

    def _analyse(self) -> None:
        """Analyse all from zero the first time, then what has changed; all again where a limit is exceeded by that."""
        with self._state.lock:
            if not self._is_analysed:
                self._store.analyse_loaded()
                self._is_analysed = True
                return
            with suppress(NoBound):  # possible only if the calibration changed after an admission
                self._store.restore_limits()

    def _intend(self, names: Sequence[str]) -> None:
        found = {name: self._store.published.get(name) for name in names}
        installed = {
            name: each if each is not None and each.state in INSTALLED else None for name, each in found.items()
        }
        self._state.set_intended(installed)
        self._without_entries.difference_update(names)


def _bursts(reservations: Iterable[Reservation], installed: Mapping[MeterKey, MeterEntry]) -> dict[FlowKey, int]:
    """The bursts in bytes of the installed meters of these reservations, where their rates are right."""
    return {
        (reservation.id, placement.flow.name): meter.burst_kbit * 125
        for reservation in reservations
        if reservation.state in INSTALLED
        for placement in reservation.carried_placements
        if (meter := installed.get((placement.switches[0], placement.meter_id))) is not None
        and meter.rate_kbps == placement.reserved_bps // 1000
    }
