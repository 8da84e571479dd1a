"""Moves lightpaths to other channels without packet loss (make-before-break).

The new channel is set up beside the old one; then the first switch forwards into the new one; after the packets in
flight have left the old one, it is removed. Reservations that are being changed by a request are not moved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from controller.admission.admission import Admitted, Request
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S
from controller.domain.reservation import Reservation
from controller.errors import SwitchError
from controller.optical.defragmentation import LightpathMove, moves_until, next_move, with_move
from controller.service.state import INSTALLED, ServiceState, drain_time_s, switches_of

log = logging.getLogger(__name__)


class LightpathMigrator:
    """Changes the channels of lightpaths; all else of a reservation stays the same. Thread-safe."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self._store, self._switches = state.store, state.switches

    def defragment(self) -> tuple[LightpathMove, ...]:
        """Move lightpaths to lower channels until none can move further; returns the moves.

        Raises: SwitchError if a switch fails; that lightpath is then on its old channel.
        """
        moves: list[LightpathMove] = []
        while True:
            with self._state.lock:
                self._store.purge(self._switches.tracker)
                movable_ids = frozenset(reservation.id for reservation in self._movable())
                move = next_move(self._state.network, self._store.calendar, movable_ids)
            if move is None or not self._migrate(move):
                return tuple(moves)
            moves.append(move)

    def make_room(self, request: Request) -> bool:
        """Make the fewest moves after which the request would be admitted; whether all were made."""
        state = self._state
        with state.lock:
            self._store.purge(self._switches.tracker)
            moves = moves_until(
                state.network, self._store.calendar, self._movable(),
                lambda calendar: isinstance(state.decide(request, calendar), Admitted),
            )  # fmt: skip
        return moves is not None and all(self._migrate(move) for move in moves)

    def _movable(self) -> list[Reservation]:
        in_step = self._switches.in_step()
        live = [each for each in self._store.published_live() if not self._state.reservation_locks.is_held(each.id)]
        return [each for each in live if each.state not in INSTALLED or switches_of(each) <= in_step]

    def _migrate(self, move: LightpathMove) -> bool:
        """Make one move; False if one of its reservations is being changed or has ended."""
        with self._state.reservation_locks.try_hold(*move.reservations) as has_locks:
            if not has_locks:
                return False
            with self._state.lock:
                befores = [self._store.published[reservation_id] for reservation_id in move.reservations]
                if not all(reservation.is_live for reservation in befores):
                    return False
                transition_ids, changed_keys = self._begin(move, befores)
            try:
                self._switches.updates.confirm(changed_keys, drain_time_s(*befores))
            except SwitchError:
                self._undo(befores)
                raise
            finally:
                with self._state.lock:
                    for transition_id in transition_ids:
                        self._store.remove(transition_id)
            with self._state.lock:
                # The lifecycle may have changed a reservation meanwhile; the channel is the new one in any case.
                self._state.record_later(*(self._store.live.get(each.id) or with_move(each, move) for each in befores))
        self._state.writer.flush()
        nodes = move.before.nodes
        log.info("moved lightpath from=%s to=%s nodes=%s", move.before.id, move.after.id, ">".join(nodes))
        return True

    def _begin(self, move: LightpathMove, befores: Sequence[Reservation]) -> tuple[list[str], ChangedKeys]:
        """Book both channels and intend the new one; returns the ids of the transition's bookings."""
        afters = [with_move(reservation, move) for reservation in befores]
        transition_ids = []
        for before, after in zip(befores, afters, strict=True):
            self._store.revert(after)
            transition_ids.append(self._store.book_transition(before, after))
        return transition_ids, self._intend(afters)

    def _undo(self, befores: Sequence[Reservation]) -> None:
        with self._state.lock:
            befores = [self._store.published.get(before.id, before) for before in befores]
            for before in befores:
                self._store.revert(before)
            changed_keys = self._intend(befores)
        self._switches.updates.settle(changed_keys, CONFIRM_TIMEOUT_S)

    def _intend(self, reservations: Sequence[Reservation]) -> ChangedKeys:
        return self._switches.set_intended({each.id: each for each in reservations if each.state in INSTALLED})
