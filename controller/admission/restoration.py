"""Protection and restoration after links fail or recover: protection switching, rerouting, suspension.

The rules, in this order:

1. A flow that no failure affects stays as it is. No flow is moved or preempted to make room for another.
2. A protected flow whose working path is cut and whose backup path is not is switched to its backup path. It keeps
   both, and reverts when the working path recovers. A modification meanwhile moves it to an intact pair, if any.
3. Every other flow whose path is cut releases its bookings. The reservations of such flows are decided again, most
   important rank first and oldest first within a rank; their other flows stay where they are. While no disjoint pair
   is available, a protected flow gets the next lower protection: a backup path that shares a duct with the working
   path, or none. Its reservation is degraded, with the reason.
4. A flow that cannot be rerouted is suspended: it holds no bookings, and its reservation is degraded, with the reason.
   At every later change it is tried again by the same rules, with its last path first.

Source: RFC 4427 (terms: working and backup path, protection, restoration, reversion).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations, as_live_reservations
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import bookings_of
from controller.calculus.failure_bounds import FlowKey
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.network import Network
from controller.domain.reservation import PROTECTIONS, Flow, Placement, Reservation, State
from controller.domain.route import DUCT_PREFIX, SrlgBySpan, is_cut, shared_srlgs, with_reverse_links

RUNNING = frozenset({State.ACTIVE, State.DEGRADED})
"""Only installed reservations are affected by failures; a scheduled one is evaluated when it starts."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """Calendar and live reservations after a link change, and the changed reservations, oldest first."""

    calendar: Calendar
    live: LiveReservations
    changed: tuple[Reservation, ...]


def restore(
    network: Network,
    calendar: Calendar,
    live: Sequence[Reservation] | LiveReservations,
    now_s: float,
    down: frozenset[str],
    calibration: Calibration = DEFAULT_CALIBRATION,
    ended: Collection[str] = (),
) -> Restoration:
    """Adapt all live reservations to the state in which exactly these directed links are down.

    To be called when links fail or recover, when a reservation starts, and when one ends while others are degraded.
    `ended`: the ids of those in `live` that only count until their packets have left the network: they stay.
    """
    down = with_reverse_links(down)
    before = as_live_reservations(network, live, calibration)
    restorer = _Restorer(network, calendar, before, now_s, down, calibration, frozenset(ended))
    unrouted = sorted((each for each in restorer.running() if _has_unrouted_flow(each, down)), key=_restoration_order)
    underprotected = sorted(
        (each for each in restorer.running() if _underprotected(each, network.srlg_by_span)), key=_restoration_order
    )
    for reservation in unrouted:
        restorer.release_cut_flows(reservation)
    for reservation in unrouted:
        restorer.reroute(reservation)
    for reservation in underprotected:
        restorer.restore_protection(reservation)
    restorer.update_states()
    changed = tuple(each for each in restorer.running() if before.get(each.id) != each)
    return Restoration(restorer.calendar, restorer.live, changed)


def _is_on_backup(placement: Placement, down: Collection[str]) -> bool:
    return (
        placement.backup_path is not None
        and is_cut(placement.path, down)
        and not is_cut(placement.backup_path, down)
    )


def _is_unrouted(placement: Placement, down: Collection[str]) -> bool:
    """Whether the flow is suspended, or cut without an intact backup path."""
    return placement.suspended or (is_cut(placement.path, down) and not _is_on_backup(placement, down))


def _has_unrouted_flow(reservation: Reservation, down: Collection[str]) -> bool:
    return any(_is_unrouted(placement, down) for placement in reservation.placements)


def _restoration_order(reservation: Reservation) -> tuple[int, float, int]:
    return reservation.rank, reservation.created_at_s, reservation.number


class _Restorer:
    """Calendar and live reservations during restoration."""

    def __init__(
        self,
        network: Network,
        calendar: Calendar,
        live: LiveReservations,
        now_s: float,
        down: frozenset[str],
        calibration: Calibration,
        ended: frozenset[str],
    ) -> None:
        self.network = network
        self.calendar = calendar
        self.live = live
        self.now_s = now_s
        self.down = down
        self.calibration = calibration
        self.ended = ended
        self.refusals: dict[FlowKey, str] = {}

    def running(self) -> Iterator[Reservation]:
        """The reservations that failures affect, oldest first."""
        return (each for each in self.live if each.state in RUNNING and each.id not in self.ended)

    def release_cut_flows(self, reservation: Reservation) -> None:
        """Suspend its unrouted flows and release their bookings."""
        placements = tuple(
            replace(placement, suspended=True) if _is_unrouted(placement, self.down) else placement
            for placement in reservation.placements
        )
        rest = replace(reservation, placements=placements)
        start_s = max(rest.start_at_s, rest.created_at_s)
        end_s = inf if rest.end_at_s is None else rest.end_at_s
        kept = bookings_of(self.network.srlg_by_span, rest.id, placements, start_s, end_s)
        self.calendar, self.live = (
            self.calendar.without_reservation(rest.id).with_bookings(kept),
            self.live.with_reservation(rest),
        )

    def reroute(self, reservation: Reservation) -> None:
        """Place its suspended flows: all together as requested, else one by one, else with less protection."""
        suspended = [p.flow for p in self._current(reservation).placements if p.suspended]
        if self._place(reservation, suspended):
            return
        for flow in sorted(suspended, key=lambda flow: flow.requirement.rank):
            self._place_first(reservation, [flow, *_less_protected(flow)])

    def restore_protection(self, reservation: Reservation) -> None:
        """Give its underprotected flows the requested protection, or more than they have."""
        for placement in _underprotected(self._current(reservation), self.network.srlg_by_span):
            variants = [placement.flow, *_less_protected(placement.flow)]
            self._place_first(reservation, variants[:-1] if placement.backup_path is None else variants[:1])

    def _place_first(self, reservation: Reservation, variants: Sequence[Flow]) -> None:
        """Place the first of these variants of a flow that is admitted."""
        for flow in variants:
            if self._place(reservation, [flow]):
                return

    def update_states(self) -> None:
        """Set state and reason of every running reservation."""
        for reservation in self.running():
            updated = self._with_state(reservation)
            if updated != reservation:
                self.live = self.live.with_reservation(updated)

    def _current(self, reservation: Reservation) -> Reservation:
        return self.live.get(reservation.id) or reservation

    def _place(self, reservation: Reservation, flows: Sequence[Flow]) -> bool:
        """Decide the reservation again with new routes for these flows only; whether it is admitted."""
        before = self._current(reservation)
        new = {flow.name: flow for flow in flows}
        kept = [p.flow for p in before.carried_placements if p.flow.name not in new]
        end_s = inf if before.end_at_s is None else before.end_at_s
        keep = frozenset(flow.name for flow in kept)
        request = Request(before.id, before.version + 1, (*kept, *flows), None, end_s, keep)
        decision = decide(
            self.network, self.calendar, self.live, request, self.now_s, self.down, self.calibration
        )
        if not isinstance(decision, Admitted):
            self.refusals |= {(before.id, name): decision.error.detail for name in new}
            return False
        placed = {p.flow.name: p for p in decision.placements}
        placements = tuple(
            replace(placed[p.flow.name], flow=p.flow) if p.flow.name in placed else p for p in before.placements
        )
        after = replace(before, version=before.version + 1, placements=placements)
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(after)
        return True

    def _with_state(self, reservation: Reservation) -> Reservation:
        ducts = self.network.srlg_by_span
        suspended = [p.flow.name for p in reservation.placements if p.suspended]
        defects = [self.refusals.get((reservation.id, name), f"{name} has no route.") for name in suspended]
        defects += [_missing_protection(placement, ducts) for placement in _underprotected(reservation, ducts)]
        on_backup = [p.flow.name for p in reservation.carried_placements if _is_on_backup(p, self.down)]
        backup_down = [p.flow.name for p in reservation.carried_placements if is_cut(p.backup_path or (), self.down)]
        notes = [f"{name} runs on its backup path." for name in on_backup]
        notes += [f"The backup path of {name} is down." for name in backup_down]
        reason = " ".join(dict.fromkeys((*defects, *notes))) or None
        state = State.DEGRADED if defects else State.ACTIVE
        if state is reservation.state:
            return replace(reservation, reason=reason)
        return reservation.with_state(state, reason)


def _less_protected(flow: Flow) -> list[Flow]:
    """The flow with each lower protection, strongest first."""
    lower = PROTECTIONS[PROTECTIONS.index(flow.requirement.protection) + 1 :]
    return [replace(flow, requirement=replace(flow.requirement, protection=protection)) for protection in lower]


def _underprotected(reservation: Reservation, ducts: SrlgBySpan) -> list[Placement]:
    """The flows that have less protection than requested."""
    return [placement for placement in reservation.carried_placements if placement.is_underprotected(ducts)]


def _missing_protection(placement: Placement, ducts: SrlgBySpan) -> str:
    name, shared = placement.flow.name, shared_srlgs(placement.route, ducts)
    if placement.backup_path is None:
        return f"{name} runs unprotected."
    ducts_shared = ", ".join(duct.removeprefix(DUCT_PREFIX) for duct in shared)
    return f"{name} has a backup in the same duct as its path: {ducts_shared}."
