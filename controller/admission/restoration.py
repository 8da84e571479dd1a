"""Links fail and return: who runs on a backup, who is placed anew and in what order, who has to wait.

The rules, in this order:

1. What no failure touches stays as it is. Nothing is ever moved to make room for something else.
2. A protected flow whose path is cut and whose backup is not runs on its backup. It keeps both, and returns to its
   path when that is whole again. If its reservation is changed meanwhile, it moves to a whole pair if there is one.
3. Every other flow whose path is cut lets go of what it had. The reservations that have such flows are decided anew,
   the most important rank first and the oldest first within a rank; their other flows stay where they are. If two
   disjoint paths cannot be had any more, a protected flow is placed with the next best protection until they can: a
   backup that shares a duct with the path, or none. Its reservation is degraded and says so.
4. A flow that fits nowhere is suspended: it keeps nothing, its reservation is degraded and says why. It is tried again,
   by the same rules and with its last path first, at every later change.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations, as_live_reservation
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import bookings_of
from controller.calculus.failure_bounds import FlowKey
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.network import Network
from controller.domain.reservation import PROTECTIONS, Flow, Placement, Reservation, State
from controller.domain.route import DUCT, Ducts, both_ways, fatal_ducts, is_cut

RUNNING = frozenset({State.ACTIVE, State.DEGRADED})
"""Only what is installed can be cut; a reservation that waits for its start is judged when it starts."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """The calendar and everybody as they are after the change, and those that are not as before, oldest first."""

    bookings: Calendar
    standing: LiveReservations
    changed: tuple[Reservation, ...]


def restore(
    network: Network,
    bookings: Calendar,
    standing: Sequence[Reservation] | LiveReservations,
    now_s: float,
    down: frozenset[str],
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Restoration:
    """What becomes of all reservations now that exactly these directed links are down.

    To be called when links fail or return, when a reservation starts, and when one ends while others are degraded.
    States and reasons are judged by the links alone.
    """
    down = both_ways(down)
    before = as_live_reservation(network, standing, calibration)
    homeless = sorted((each for each in before if _has_unrouted_flow(each, down)), key=_order)
    running = (each for each in before if each.state in RUNNING)
    weak = sorted((each for each in running if _weak(each, network.ducts)), key=_order)
    shelter = _Restorer(network, bookings, before, now_s, down, calibration)
    for reservation in homeless:
        shelter.let_go(reservation)
    for reservation in homeless:
        shelter.place_anew(reservation)
    for reservation in weak:
        shelter.protect(reservation)
    shelter.judge()
    changed = tuple(each for each in shelter.standing if before.get(each.id) != each)
    return Restoration(shelter.bookings, shelter.standing, changed)


def _on_backup(placement: Placement, down: Collection[str]) -> bool:
    return (
        placement.backup_path is not None
        and is_cut(placement.path, down)
        and not is_cut(placement.backup_path, down)
    )


def _is_lost(placement: Placement, down: Collection[str]) -> bool:
    """Whether the flow has no way: it waits for one, or what it has is cut."""
    return placement.suspended or (is_cut(placement.path, down) and not _on_backup(placement, down))


def _has_unrouted_flow(reservation: Reservation, down: Collection[str]) -> bool:
    return reservation.state in RUNNING and any(_is_lost(placement, down) for placement in reservation.placements)


def _order(reservation: Reservation) -> tuple[int, float, int]:
    return reservation.rank, reservation.created_at_s, reservation.number


class _Restorer:
    """The calendar and the reservations while they are brought to where they can stay."""

    def __init__(
        self,
        network: Network,
        bookings: Calendar,
        standing: LiveReservations,
        now_s: float,
        down: frozenset[str],
        calibration: Calibration,
    ) -> None:
        self.network = network
        self.bookings = bookings
        self.standing = standing
        self.now_s = now_s
        self.down = down
        self.calibration = calibration
        self.refusals: dict[FlowKey, str] = {}

    def let_go(self, reservation: Reservation) -> None:
        """Suspend its lost flows: what they had is free."""
        placements = tuple(
            replace(placement, suspended=True) if _is_lost(placement, self.down) else placement
            for placement in reservation.placements
        )
        rest = replace(reservation, placements=placements)
        start_s = max(rest.start_at_s, rest.created_at_s)
        end_s = inf if rest.end_at_s is None else rest.end_at_s
        kept = bookings_of(self.network.ducts, rest.id, placements, start_s, end_s)
        self.bookings, self.standing = self.bookings.without(rest.id).adding(kept), self.standing.with_reservation(rest)

    def place_anew(self, reservation: Reservation) -> None:
        """Place its suspended flows: all together as asked for, else each for itself, else with less protection."""
        lost = [p.flow for p in self._now(reservation).placements if p.suspended]
        if self._place(reservation, lost):
            return
        for flow in sorted(lost, key=lambda each: each.requirement.rank):
            self._place_at_best(reservation, [flow, *_less_protected(flow)])

    def protect(self, reservation: Reservation) -> None:
        """Give its flows that had to be placed with less protection what they asked for, or more than they have."""
        for placement in self._weak(self._now(reservation)):
            tries = [placement.flow, *_less_protected(placement.flow)]
            self._place_at_best(reservation, tries[:-1] if placement.backup_path is None else tries[:1])

    def _place_at_best(self, reservation: Reservation, flows: Sequence[Flow]) -> None:
        """Place the first of these that there is room for."""
        for flow in flows:
            if self._place(reservation, [flow]):
                return

    def _weak(self, reservation: Reservation) -> list[Placement]:
        return _weak(reservation, self.network.ducts)

    def judge(self) -> None:
        """State and reason of every reservation that runs."""
        for reservation in self.standing:
            if reservation.state in RUNNING:
                judged = self._judged(reservation)
                if judged != reservation:
                    self.standing = self.standing.with_reservation(judged)

    def _now(self, reservation: Reservation) -> Reservation:
        return self.standing.get(reservation.id) or reservation

    def _place(self, reservation: Reservation, flows: Sequence[Flow]) -> bool:
        before = self._now(reservation)
        new = {flow.name: flow for flow in flows}
        kept = [p.flow for p in before.carried if p.flow.name not in new]
        end_s = inf if before.end_at_s is None else before.end_at_s
        keep = frozenset(flow.name for flow in kept)
        request = Request(before.id, before.version + 1, (*kept, *flows), None, end_s, keep)
        decision = decide(
            self.network, self.bookings, self.standing, request, self.now_s, self.down, self.calibration
        )
        if not isinstance(decision, Admitted):
            self.refusals |= {(before.id, name): decision.error.detail for name in new}
            return False
        placed = {p.flow.name: p for p in decision.placements}
        placements = tuple(
            replace(placed[p.flow.name], flow=p.flow) if p.flow.name in placed else p for p in before.placements
        )
        after = replace(before, version=before.version + 1, placements=placements)
        self.bookings, self.standing = decision.bookings, decision.after.with_reservation(after)
        return True

    def _judged(self, reservation: Reservation) -> Reservation:
        waiting = [p.flow.name for p in reservation.placements if p.suspended]
        troubles = [self.refusals.get((reservation.id, name), f"{name} has no way.") for name in waiting]
        troubles += [_weakness(placement, self.network.ducts) for placement in self._weak(reservation)]
        detours = [p.flow.name for p in reservation.carried if _on_backup(p, self.down)]
        bared = [p.flow.name for p in reservation.carried if is_cut(p.backup_path or (), self.down)]
        notes = [f"{name} runs on its backup path." for name in detours]
        notes += [f"The backup path of {name} is down." for name in bared]
        reason = " ".join(dict.fromkeys((*troubles, *notes))) or None
        state = State.DEGRADED if troubles else State.ACTIVE
        if state is reservation.state:
            return replace(reservation, reason=reason)
        return reservation.moved_to(state, reason)


def _less_protected(flow: Flow) -> list[Flow]:
    """The same with the next best protection, and so on down to none."""
    asked = PROTECTIONS.index(flow.requirement.protection)
    return [replace(flow, requirement=replace(flow.requirement, protection=each)) for each in PROTECTIONS[asked + 1 :]]


def _weak(reservation: Reservation, ducts: Ducts) -> list[Placement]:
    """The flows that have less protection than they asked for."""
    return [placement for placement in reservation.carried if placement.is_weak(ducts)]


def _weakness(placement: Placement, ducts: Ducts) -> str:
    name, shared = placement.flow.name, fatal_ducts(placement.route, ducts)
    if placement.backup_path is None:
        return f"{name} runs unprotected."
    lying = ", ".join(duct.removeprefix(DUCT) for duct in shared)
    return f"{name} has a backup in the same duct as its path: {lying}."
