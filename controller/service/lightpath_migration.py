"""Moves lightpaths to other channels without packet loss (make-before-break).

The new channel is set up beside the old one; then the first switch forwards into the new one; after the packets in
flight have left the old one, it is removed. Reservations that are being changed by a request are not moved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from controller.admission.admission import Rejected, Request
from controller.admission.limit_checks import check_limits
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import NoBound
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S
from controller.domain.events import LightpathMoved, MoveCause
from controller.domain.path import Path, nodes_of
from controller.domain.reservation import Reservation
from controller.domain.route import with_reverse_links
from controller.errors import Refused, SwitchError
from controller.optical.defragmentation import LightpathMove, moves_to_admit, next_move, with_move
from controller.routing.candidates import candidate_paths, candidate_routes
from controller.service.state import INSTALLED, ServiceState, drain_time_s, switches_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Transition:
    """The reservations after a move, what else is booked and counted meanwhile, and the entries that change."""

    afters: Sequence[Reservation]
    booked_ids: Sequence[str]
    draining_ids: Sequence[str]
    changed_keys: ChangedKeys


class LightpathMigrator:
    """Changes the channels of lightpaths; all else of a reservation stays the same. Thread-safe.

    `moves`: how many were moved since the start.
    """

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._store, self._switches = state.store, state.switches
        self.moves = 0

    def defragment(self) -> tuple[LightpathMove, ...]:
        """Move lightpaths to lower channels until none can move further; returns the moves.

        Raises: SwitchError if a switch fails; that lightpath is then on its old channel.
        """
        moves: list[LightpathMove] = []
        while True:
            with self._state.lock:
                self._store.purge(self._switches.tracker)
                movable = {reservation.id: reservation for reservation in self._movable()}
                move = next_move(self._state.network, self._store.calendar, movable)
            if move is None or not self._migrate(move, "defragmentation"):
                return tuple(moves)
            moves.append(move)

    def make_room(self, request: Request) -> bool:
        """Make the fewest moves after which the request would be admitted; whether all were made."""
        state = self._state
        flows = {flow.name: flow for flow in request.flows}

        def refusal_of(calendar: Calendar, rerouted: Sequence[Reservation]) -> Exception | None:
            live = self._store.live
            for reservation in rerouted:
                live = live.with_reservation(reservation)
            for reservation in rerouted:
                if isinstance(state.decide(_as_it_is(reservation), calendar, live), Rejected):
                    return Refused(f"{reservation.id} would exceed a limit on the other route.")
            decision = state.decide(request, calendar, live)
            return decision.error if isinstance(decision, Rejected) else None

        down = with_reverse_links(self._switches.links.down)

        def paths_of(name: str) -> list[Path]:
            flow = flows[name]
            ends, protection = (flow.source, flow.destination), flow.requirement.protection
            paths: Sequence[Path] = candidate_paths(state.network, *ends, down)
            if protection != "none":
                routes = candidate_routes(state.network, *ends, down, protection == "duct_disjoint").routes
                paths = [path for route in routes for path in (route.path, route.backup) if path is not None]
            return [path[1:-1] for path in dict.fromkeys(paths)]

        def paths_between(source: str, destination: str) -> list[Path]:
            in_step = self._switches.in_step()
            paths = candidate_paths(state.network, source, destination, down)
            return [path for path in paths if in_step.issuperset(nodes_of(path))]

        with state.lock:
            self._store.purge(self._switches.tracker)
            moves = moves_to_admit(
                state.network, self._store.calendar, self._movable(), refusal_of, paths_of, paths_between
            )
        return moves is not None and all(self._migrate(move, "request") for move in moves)

    def _movable(self) -> list[Reservation]:
        in_step = self._switches.in_step()
        live = [each for each in self._store.published_live() if not self._state.reservation_locks.is_held(each.id)]
        return [each for each in live if each.state not in INSTALLED or switches_of(each) <= in_step]

    def _migrate(self, move: LightpathMove, cause: MoveCause) -> bool:
        """Make one move; False if one of its reservations is being changed or has ended, or a bound forbids it."""
        with self._state.reservation_locks.try_hold(*move.reservations) as has_locks:
            if not has_locks:
                return False
            with self._state.lock:
                befores = [self._store.published[reservation_id] for reservation_id in move.reservations]
                if not all(reservation.is_live for reservation in befores):
                    return False
                try:
                    transition = self._begin(move, befores)
                except Refused:
                    return False
            try:
                self._switches.updates.confirm(transition.changed_keys, drain_time_s(*befores))
            except SwitchError:
                self._undo(befores)
                raise
            finally:
                with self._state.lock:
                    self._end(transition)
            with self._state.lock:
                # The lifecycle may have changed a reservation meanwhile; the channel is the new one in any case.
                self._state.record_later(*(self._store.live.get(each.id) or each for each in transition.afters))
        self._state.writer.flush()
        self.moves += 1
        self._state.publish(LightpathMoved(move.before, move.after, cause))
        nodes = ">".join(move.before.nodes)
        log.info("moved lightpath from=%s to=%s nodes=%s cause=%s", move.before.id, move.after.id, nodes, cause)
        return True

    def _begin(self, move: LightpathMove, befores: Sequence[Reservation]) -> _Transition:
        """Book both channels and intend the new one.

        Raises: Refused if a bound forbids another route; nothing has changed then.
        """
        afters = [with_move(reservation, move) for reservation in befores]
        booked_ids: list[str] = []
        draining_ids: list[str] = []
        with self._store.undone_if_refused():
            for after in afters:
                self._store.revert(after)
            if move.is_reroute:
                afters = [self._readmitted(after) for after in afters]
            for before, after in zip(befores, afters, strict=True):
                booked_ids.append(self._store.book_transition(before, after))
                if move.is_reroute:
                    draining_ids.append(self._store.begin_drain(before, after))
            if move.is_reroute:
                self._check_limits(befores)
                for after, draining_id in zip(afters, draining_ids, strict=True):
                    if self._store.others_as_grown(after, draining_id) is not None:
                        raise Refused(f"{after.id} would exceed a limit, as meters grow while it is on both routes.")
        return _Transition(afters, booked_ids, draining_ids, self._intend(afters))

    def _readmitted(self, moved: Reservation) -> Reservation:
        """Prove the bounds of a reservation on another path; returns its next version.

        Raises: Refused.
        """
        moved = replace(moved, version=moved.version + 1)
        admitted = self._state.admit(_as_it_is(moved))
        placed = {placement.flow.name: placement for placement in admitted.placements}
        moved = replace(moved, placements=tuple(placed.get(each.flow.name, each) for each in moved.placements))
        self._store.add(moved, admitted)
        return moved

    def _check_limits(self, befores: Sequence[Reservation]) -> None:
        """Check the limits of others while packets are on the old path.

        Raises: LatencyNotMet.
        """
        live = self._store.live_with_draining_bursts()
        with suppress(NoBound):  # possible only if the calibration changed after an admission
            for before in befores:
                check_limits(live, live.bounds, live.bounds.changed_limited_flows(), before.id)

    def _end(self, transition: _Transition) -> None:
        """Free what the old channel has booked."""
        for booked_id in transition.booked_ids:
            self._store.remove(booked_id)
        for draining_id in transition.draining_ids:
            self._store.end_drain(draining_id)

    def _undo(self, befores: Sequence[Reservation]) -> None:
        with self._state.lock:
            befores = [self._store.published.get(before.id, before) for before in befores]
            for before in befores:
                self._store.undo(before)
            changed_keys = self._intend(befores)
        self._switches.updates.settle(changed_keys, CONFIRM_TIMEOUT_S)

    def _intend(self, reservations: Sequence[Reservation]) -> ChangedKeys:
        return self._state.set_intended({each.id: each for each in reservations if each.state in INSTALLED})


def _as_it_is(reservation: Reservation) -> Request:
    """The request for a reservation with all flows where they are."""
    flows = tuple(placement.flow for placement in reservation.carried_placements)
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    keep = frozenset(flow.name for flow in flows)
    return Request(reservation.id, reservation.version, flows, reservation.start_at_s, end_s, keep)
