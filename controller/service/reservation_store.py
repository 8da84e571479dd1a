"""All reservations known to the service, and the calendar of what they book.

Changed by one thread at a time, under the lock of ServiceState; reading needs no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from time import monotonic
from typing import Protocol

from controller.admission.admission import Admitted
from controller.admission.draining_flows import bursts_only, flows_beyond, flows_in_flight
from controller.admission.latency_limits import exceeds_limits, has_limit
from controller.admission.limit_checks import check_limits
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import Restoration
from controller.admission.told_bounds import retold
from controller.booking.calendar import Booking, Calendar
from controller.booking.flow_bookings import bookings_of
from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.calculus.network_bounds import Calibration, NoBound
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.errors import LatencyNotMet, Refused
from controller.security.tenant_usage import TenantUsage
from controller.service.reservation_times import after_step

KEPT_ENDED = 1000
"""Ended reservations that are still listed; older ones are only in the ledger."""


DRAIN_MAX_S = 10.0


class ForwardingState(Protocol):
    """What is known of the packets that switches forward."""

    def may_forward(self, reservation: Reservation) -> bool:
        """Whether a switch may admit packets of this reservation."""

    def pop_end_s(self, reservation: Reservation) -> float | None:
        """When the last packets of an ended reservation may have entered the network; None: it never sent any."""


@dataclass(slots=True)
class _Draining:
    """Flows that count in the bounds only: of an ended reservation, or what a changed one sent before.

    They send nothing since `end_s`; `drained_s`: when their packets have left the network, if computed.
    """

    end_s: float
    keys: list[FlowKey]
    flows: Mapping[FlowKey, CarriedFlow] = field(default_factory=dict)
    reservation: Reservation | None = None
    drained_s: float | None = None
    has_grown: bool = False
    """Whether meters have grown because of these flows."""

    def added_to(self, live: LiveReservations) -> LiveReservations:
        """The live reservations with these flows."""
        return live.with_draining(self.flows) if self.reservation is None else live.with_reservation(self.reservation)

    def removed_from(self, live: LiveReservations) -> LiveReservations:
        """The live reservations without these flows."""
        return live.without_draining(self.keys) if self.reservation is None else live.without(self.reservation.id)


class ReservationStore:
    """Reservations as clients see them (`published`) and as admission must respect them (`live`, `calendar`).

    The two differ while a change is being installed: a reservation counts for admission before it is installed, and
    for as long as a switch may still forward its packets.
    """

    def __init__(self, network: Network, calibration: Calibration) -> None:
        self.published: dict[str, Reservation] = {}
        self.live = LiveReservations(network, calibration)
        self._told_live = self.live, self.live
        self.calendar = Calendar()
        self.usage = TenantUsage()
        self._srlg_by_span = network.srlg_by_span
        self._ended: deque[str] = deque()
        self._retiring: dict[str, Reservation] = {}
        """Ended reservations whose packets a switch may still forward."""
        self._draining: dict[str, _Draining] = {}
        self._reroutes = count(1)
        self._has_freed = False
        self._is_tentative = False
        """Whether changes may still be refused, so that nothing is purged."""
        self._undone: set[str] = set()
        """Reservations of which a change was undone, until others' limits are known to hold again."""

    def published_live(self) -> list[Reservation]:
        """The live reservations as clients see them."""
        return [reservation for reservation in tuple(self.published.values()) if reservation.is_live]

    def live_with_draining_bursts(self) -> LiveReservations:
        """The live reservations with what changed ones may still have in the network: of their former flows the bursts.

        Rates that the flows of a reservation exchange are never used by both. The same object while nothing changes.
        """
        live, (known, result) = self.live, self._told_live
        if live is known:
            return result
        result = live
        for draining in tuple(self._draining.values()):
            if draining.flows:
                bursts = {key: flow for key, flow in bursts_only(draining.flows).items() if flow.burst_bytes}
                result = result.without_draining(draining.keys).with_draining(bursts)
        self._told_live = live, result
        return result

    def retold(self, reservation: Reservation, with_falls: bool = True) -> Reservation:
        """The reservation with bounds that are valid beside the live reservations; see told_bounds."""
        if not reservation.is_live:
            return reservation
        try:
            bounds = self.live_with_draining_bursts().current_bounds(reservation)
            return retold(reservation, bounds, with_falls)
        except NoBound:  # possible only if the calibration changed after its admission
            return reservation

    def analyse_afresh(self) -> None:
        """Analyse all live reservations from zero: the bounds are then not above those of any earlier analysis."""
        with suppress(NoBound):  # possible only if the calibration changed after their admission
            self.live = self.live.analysed_afresh()

    def analyse_loaded(self) -> None:
        """Analyse all live reservations from zero, before it is known which meters switches have."""
        self.live = self.live.with_meters_afresh().with_meters_intended()
        self.analyse_afresh()

    def show(self, reservation: Reservation) -> None:
        """Publish a reservation to clients without changing what counts for admission."""
        self.usage.update(self.published.get(reservation.id), reservation)
        self.published[reservation.id] = reservation
        if not reservation.is_live:
            self._ended.append(reservation.id)
            while len(self._ended) > KEPT_ENDED:
                self.published.pop(self._ended.popleft(), None)

    def publish(self, reservation: Reservation) -> None:
        """Publish a live reservation whose bookings have not changed."""
        current = self.live.get(reservation.id)
        if current is not reservation and current != reservation:
            self.replace(reservation)
        self.show(reservation)

    def replace(self, reservation: Reservation) -> None:
        """Replace the live reservation of that id; its bookings have not changed, and clients do not see it yet."""
        self.live = self.live.with_reservation(reservation)

    def add(self, reservation: Reservation, admitted: Admitted) -> None:
        """Add an admitted reservation and its bookings."""
        self.calendar = admitted.calendar
        self.live = admitted.others.with_reservation(reservation)

    @contextmanager
    def undone_if_refused(self) -> Iterator[Callable[[], None]]:
        """Undo the changes of a block, in which nothing is purged, if it ends with a refusal or calls this: exactly.

        After the opposite changes instead, the analysis would leave bounds of others somewhat higher than before.
        """
        calendar, live, draining = self.calendar, self.live, self._draining.copy()

        def undo() -> None:
            self.calendar, self.live, self._draining = calendar, live, draining.copy()

        self._is_tentative = True
        try:
            yield undo
        except Refused:
            undo()
            raise
        finally:
            self._is_tentative = False

    def revert(self, reservation: Reservation) -> None:
        """Restore this version of a reservation and its bookings."""
        self.calendar = self.calendar.without_reservation(reservation.id).with_bookings(self._bookings_of(reservation))
        self.live = self.live.with_reservation(reservation)

    def undo(self, before: Reservation) -> None:
        """Restore the version before a change that others may have been decided beside.

        That is the opposite change, so bounds of others may be somewhat higher than before. Where one exceeds a limit,
        all is analysed afresh by `purge`, once nothing that the reservation sent meanwhile is in the network.
        """
        self.revert(before)
        self._undone.add(before.id)

    def remove(self, reservation_id: str) -> None:
        """Remove a reservation and its bookings from admission."""
        self.calendar = self.calendar.without_reservation(reservation_id)
        self.live = self.live.without(reservation_id)
        self._retiring.pop(reservation_id, None)

    def forget(self, reservation_id: str) -> None:
        """Remove a reservation that another controller has ended."""
        self.remove(reservation_id)
        before = self.published.pop(reservation_id, None)
        if before is not None:
            self.usage.update(before, replace(before, state=State.ENDED))

    def retire(self, reservation: Reservation) -> None:
        """Keep an ended reservation in admission until `purge` finds that its packets have left the network."""
        self._retiring[reservation.id] = reservation

    def purge(self, switches: ForwardingState) -> bool:
        """Free what ended and changed reservations do not need any more; whether capacity was freed.

        The bandwidth: when no switch forwards their packets. In the bounds they count until the packets that switches
        forwarded before have left the network, and delay no others.
        """
        if self._is_tentative:
            return False
        is_freed = False
        for reservation_id, reservation in tuple(self._retiring.items()):
            if not switches.may_forward(reservation):
                is_freed = True
                del self._retiring[reservation_id]
                self.calendar = self.calendar.without_reservation(reservation_id)
                end_s = switches.pop_end_s(reservation)
                if end_s is None:
                    self.remove(reservation_id)
                else:
                    keys = [(reservation_id, placement.flow.name) for placement in reservation.carried_placements]
                    self._draining[reservation_id] = _Draining(end_s, keys, reservation=reservation)
        for draining_id, draining in tuple(self._draining.items()):
            if self._drained_s(draining) <= monotonic():
                del self._draining[draining_id]
                self.live = draining.removed_from(self.live)
                self._has_freed = True
                if draining.flows:
                    self._restore_limits_of(draining_id.rsplit("~", 1)[0])
        if drained := {name for name in self._undone if not self.is_draining(name)}:
            self._undone -= drained
            self.restore_limits()
        self._has_freed = self._has_freed or is_freed
        return is_freed

    def _restore_limits_of(self, reservation_id: str) -> None:
        """Analyse afresh if bounds of a changed reservation exceed its limits once its former flows have drained.

        Its limits were kept without these flows. Beside them its own bounds may be higher, and when the flows leave,
        the analysis lowers only what exceeds a tolerance.
        """
        reservation = self.live.get(reservation_id)
        if reservation is None or self.is_draining(reservation_id):
            return
        limited = [placement for placement in reservation.carried_placements if has_limit(placement.flow.requirement)]
        with suppress(NoBound):  # possible only if the calibration changed after its admission
            bounds = self.live.current_bounds(reservation) if limited else {}
            if any(exceeds_limits(placement, bounds[placement.flow.name]) for placement in limited):
                self.analyse_afresh()

    def restore_limits(self) -> None:
        """Analyse afresh if any bound exceeds a limit."""
        with suppress(NoBound):  # possible only if the calibration changed after an admission
            bounds = self.live.bounds
            try:
                check_limits(self.live, bounds, bounds.limited_flows(), "")
            except LatencyNotMet:
                self.analyse_afresh()

    def begin_drain(
        self, before: Reservation, after: Reservation, old_meters: Mapping[str, int] | None = None
    ) -> str:
        """Count what `before` may have sent beyond `after` in the bounds, until after `end_drain` it has left.

        `old_meters`: the bursts of its meters before the change, by flow; None: they stay. Returns the id of these
        flows.
        """
        draining_id = f"{before.id}~{before.version}"
        new_meters = self.live.meter_bursts(after.id)
        flows = flows_beyond(before, after, draining_id, new_meters if old_meters is None else old_meters, new_meters)
        if flows:
            self._draining[draining_id] = draining = _Draining(inf, list(flows), flows)
            earlier, self.live = self.live, draining.added_to(self.live)
            draining.has_grown = self.live.has_more_room_than(earlier)
        return draining_id

    def others_as_grown(self, after: Reservation, draining_id: str) -> LiveReservations | None:
        """All others, with the meters that have grown because of what `before` may have sent (`begin_drain`).

        None if no meter has, or if the changed reservation keeps its limits beside these meters, which stay.
        """
        draining = self._draining.get(draining_id)
        if draining is None or not draining.has_grown:
            return None
        live = self.live.without_draining(draining.keys)
        bounds = live.current_bounds(after)
        if any(exceeds_limits(placement, bounds[placement.flow.name]) for placement in after.carried_placements):
            return live.without(after.id)
        return None

    def end_drain(self, draining_id: str) -> None:
        """No switch sends packets of these flows any more."""
        if draining_id in self._draining:
            self._draining[draining_id].end_s = monotonic()

    def is_draining(self, reservation_id: str) -> bool:
        """Whether what the reservation sent before its last change may still delay its own packets."""
        return any(draining_id.startswith(f"{reservation_id}~") for draining_id in tuple(self._draining))

    def drained_s(self) -> float | None:
        """When all packets of flows that have ended will have left the network; None: they have, or still enter it."""
        return max(map(self._drained_s, self._draining.values()), default=None)

    def drains_in_s(self) -> float:
        """In how many seconds the packets of the next flow that has ended will have left; infinite if none is known."""
        times_s = [each.drained_s for each in tuple(self._draining.values()) if each.drained_s is not None]
        return max(0.0, min(times_s, default=inf) - monotonic())

    def _drained_s(self, draining: _Draining) -> float:
        if draining.drained_s is None:
            try:
                drain_s = self._drain_s(draining)
            except NoBound:
                drain_s = self._drain_bursts_s(draining)
            if draining.end_s < inf:
                draining.drained_s = draining.end_s + min(drain_s, DRAIN_MAX_S)
        return inf if draining.drained_s is None else draining.drained_s

    def _drain_s(self, draining: _Draining) -> float:
        """After how long their packets delay no others; computed once they send no more.

        Raises: NoBound if no finite bound can be proven.
        """
        bounds = self.live.bounds
        return bounds.drain_us(draining.keys) / 1e6 if draining.end_s < inf else inf

    def _drain_bursts_s(self, draining: _Draining) -> float:
        """Count the bursts only: rates that flows of a reservation passed on to others of it are never used by both."""
        if not draining.flows:  # possible only if the calibration changed after its admission
            return DRAIN_MAX_S
        draining.flows = bursts_only(draining.flows)
        self.live = draining.added_to(self.live)
        try:
            return self._drain_s(draining)
        except NoBound:
            return DRAIN_MAX_S

    def take_freed(self) -> bool:
        """Whether `purge` has freed capacity since the last call."""
        has_freed, self._has_freed = self._has_freed, False
        return has_freed

    def step_clock(self, by_s: float, now_s: float) -> list[Reservation]:
        """Adapt all reservations to a step of the clock, which showed `now_s` before; those that clients see.

        Leases keep their remaining time. What has begun stays so: times in the past move with a clock that is set back,
        or the network would count as free until they are reached again. Later starts, and ends, are times of the
        calendar and stay.
        """
        if by_s < 0:
            self.calendar = self.calendar.shifted(by_s, now_s)
        for reservation in self.live:
            self.live = self.live.with_reservation(after_step(reservation, by_s, now_s))
        self._retiring = {name: after_step(each, by_s, now_s) for name, each in self._retiring.items()}
        for draining in self._draining.values():
            if draining.reservation is not None:
                draining.reservation = after_step(draining.reservation, by_s, now_s)
        seen = [after_step(reservation, by_s, now_s) for reservation in self.published_live()]
        self.published.update((reservation.id, reservation) for reservation in seen)
        return seen

    def ended(self) -> frozenset[str]:
        """The ids of the reservations in `live` that have ended."""
        return frozenset((*self._retiring, *(name for name, each in self._draining.items() if each.reservation)))

    def apply_restoration(self, restoration: Restoration) -> list[str]:
        """Take over calendar and live reservations as re-evaluated after a link change.

        What was sent on the former paths of flows that are rerouted or suspended counts in the bounds until after
        `end_drain` of the returned ids it has left the network.
        """
        before, self.calendar, self.live = self.live, restoration.calendar, restoration.live
        for draining in self._draining.values():
            if draining.flows:  # restored beside its bursts only
                self.live = draining.added_to(self.live)
        in_flight = {}
        for after in restoration.changed:
            former = before.get(after.id)
            draining_id = f"{after.id}~reroute{next(self._reroutes)}"
            flows = flows_in_flight(former, after, draining_id, before.meter_bursts(after.id)) if former else {}
            if flows:
                self._draining[draining_id] = _Draining(inf, list(flows), flows)
                in_flight[draining_id] = flows
        added = {key: flow for flows in in_flight.values() for key, flow in flows.items()}
        self.live = self.live.with_draining(added) if added else self.live
        return list(in_flight)

    def book_transition(self, before: Reservation, after: Reservation) -> str:
        """Book what `before` needs beyond `after` while one replaces the other; returns the id of these bookings."""
        booked_bps: dict[object, int] = {}
        for booking in self._bookings_of(after):
            booked_bps[_resource(booking)] = booked_bps.get(_resource(booking), 0) + booking.rate_bps
        transition_id = f"{before.id}~{before.version}"
        extra = [
            booking._replace(reservation_id=transition_id, rate_bps=extra_bps)
            for booking in self._bookings_of(before)
            if (extra_bps := booking.rate_bps - booked_bps.get(_resource(booking), 0)) > 0
        ]
        self.calendar = self.calendar.with_bookings(extra)
        return transition_id

    def _bookings_of(self, reservation: Reservation) -> Iterable[Booking]:
        start_s = max(reservation.start_at_s, reservation.created_at_s)
        end_s = inf if reservation.end_at_s is None else reservation.end_at_s
        return bookings_of(self._srlg_by_span, reservation.id, reservation.placements, start_s, end_s)


def _resource(booking: Booking) -> object:
    """What a booking takes a rate of, as a key."""
    return booking.flow, booking.link, booking.window, booking.failures
