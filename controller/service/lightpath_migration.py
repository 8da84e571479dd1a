"""Moves lightpaths to other channels while packets travel in them, and loses none (make before break).

The new channel is laid beside the old one; then the first switch sends what comes into the new one; when all packets
have left the old one, it is taken away. Whoever is being changed by somebody else stays where he is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from controller.admission.admission import Admitted, Request
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S
from controller.domain.reservation import Reservation
from controller.errors import SwitchError
from controller.optical.defragmentation import Move, moved, moves_until, next_move
from controller.service.state import INSTALLED, ServiceState, drain_s, switches_of

log = logging.getLogger(__name__)


class LightpathMigrator:
    """Changes the channels of lightpaths; everything else of a reservation stays as it is. Thread-safe."""

    def __init__(self, writer: ServiceState) -> None:
        self._writer = writer
        self._book, self._fabric = writer.book, writer.fabric

    def defragment(self) -> tuple[Move, ...]:
        """Move lightpaths down until none can go further down; what has been moved.

        Raises: SwitchError if a switch did not do its part; then that lightpath is where it was.
        """
        made: list[Move] = []
        while True:
            with self._writer.lock:
                self._book.purge(self._fabric.tracker.may_forward)
                movable = frozenset(each.id for each in self._movable())
                move = next_move(self._writer.network, self._book.bookings, movable)
            if move is None or not self._make(move):
                return tuple(made)
            made.append(move)

    def make_room(self, request: Request) -> bool:
        """Move as few lightpaths as it takes for a request to be admitted; whether it may be by now."""
        writer = self._writer
        with writer.lock:
            self._book.purge(self._fabric.tracker.may_forward)
            moves = moves_until(
                writer.network, self._book.bookings, self._movable(),
                lambda bookings: isinstance(writer.decide(request, bookings), Admitted),
            )  # fmt: skip
        return moves is not None and all(self._make(move) for move in moves)

    def _movable(self) -> list[Reservation]:
        in_step = self._fabric.in_step()
        live = [each for each in self._book.live() if not self._writer.turns.is_taken(each.id)]
        return [each for each in live if each.state not in INSTALLED or switches_of(each) <= in_step]

    def _make(self, move: Move) -> bool:
        """Make one move; False if somebody is at one of its reservations."""
        with self._turns(move.reservations) as ours:
            if not ours:
                return False
            with self._writer.lock:
                befores = [self._book.known[name] for name in move.reservations]
                if not all(each.is_live for each in befores):
                    return False
                both, touched = self._begin(move, befores)
            try:
                self._fabric.updates.confirm(touched, drain_s(*befores))
            except SwitchError:
                with self._writer.lock:
                    for before in befores:
                        self._book.revert(before)
                    undone = self._fabric.set_intended({each.id: each for each in befores if each.state in INSTALLED})
                self._fabric.updates.settle(undone, CONFIRM_TIMEOUT_S)
                raise
            finally:
                with self._writer.lock:
                    for name in both:
                        self._book.remove(name)
            with self._writer.lock:
                # With whatever time or a failure has made of them meanwhile; the channel is the new one.
                self._writer.record(*(self._book.standing.get(each.id) or moved(each, move) for each in befores))
        nodes = move.before.nodes
        log.info("moved lightpath from=%s to=%s nodes=%s", move.before.id, move.after.id, ">".join(nodes))
        return True

    def _begin(self, move: Move, befores: Sequence[Reservation]) -> tuple[list[str], ChangedKeys]:
        afters = [moved(each, move) for each in befores]
        both = []
        for before, after in zip(befores, afters, strict=True):
            self._book.revert(after)
            both.append(self._book.book_transition(before, after))
        return both, self._fabric.set_intended({each.id: each for each in afters if each.state in INSTALLED})

    @contextmanager
    def _turns(self, names: Sequence[str]) -> Iterator[bool]:
        """All of these turns, if nobody has one of them."""
        taken = []
        try:
            for name in names:
                if not self._writer.turns.take(name):
                    yield False
                    return
                taken.append(name)
            yield True
        finally:
            for name in taken:
                self._writer.turns.release(name)
