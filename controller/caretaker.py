"""What time and the switches bring: leases that run out, starts and ends, links that fail, switches that come and go.

One thread waits for events and the next moment, and never for a switch. Another reads the switches back in turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import count

from controller.admission import Admitted, Request
from controller.fabric import TICK_S
from controller.repeats import Repeats
from controller.reservation import Reservation, State
from controller.target import Touched
from controller.writer import INSTALLED, Writer, broken_links, switches_of

log = logging.getLogger(__name__)

CHECK_S = 5.0
"""How often one switch is read back, each in turn."""

BUSY_PAUSE_S = 0.05
FORGET_EVERY_S = 3600.0

MAP_CHANGED = "The map has changed and its path is gone."
NEVER_STARTED = "Its time was over before it could be installed."
NOT_RENEWED = "The lease was not renewed."


class Caretaker:
    """Keeps reservations to their time and switches to what they should hold."""

    def __init__(self, writer: Writer, repeats: Repeats, check_s: float) -> None:
        self._writer = writer
        self._book, self._fabric, self._clock = writer.book, writer.fabric, writer.clock
        self._repeats = repeats
        self._check_s = check_s
        self._stopping = threading.Event()
        self._judge = True
        self._busy = False
        self._forget_at_s = 0.0
        self._threads = [
            threading.Thread(target=self._watch, name="paceline-watcher", daemon=True),
            threading.Thread(target=self._check, name="paceline-checker", daemon=True),
        ]

    def start(self) -> None:
        """Take up what the ledger holds, and begin."""
        with self._writer.lock:
            for reservation in self._writer.ledger.live():
                self._take_up(reservation)
            installed = {each.id: each for each in self._book.live() if each.state in INSTALLED}
            self._fabric.aim(installed)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads."""
        self._stopping.set()
        self._fabric.wake()
        for thread in self._threads:
            thread.join(timeout=10)

    def look_again_if_broken(self, reservation: Reservation) -> None:
        """Judge a reservation that was being changed while a link of its path failed."""
        if broken_links(reservation, self._fabric.down):
            self._judge = True
            self._fabric.wake()

    def _take_up(self, reservation: Reservation) -> None:
        """Bring back a reservation from before a restart, unless its path is gone; time is for the watcher."""
        if any(link not in self._writer.network.links for p in reservation.placements for link in p.link_names):
            self._writer.record(reservation.moved_to(State.FAILED, MAP_CHANGED))
        else:
            self._book.take_up(reservation)

    # The watcher ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._fabric.wait_for_event(self._pause_s())
            try:
                if not self._stopping.is_set():
                    self._catch_up()
            except Exception:
                # The watcher must outlive whatever went wrong; the fabric is compared again at the next turn.
                log.exception("watcher: what happened could not be dealt with")
                self._stopping.wait(1.0)

    def _pause_s(self) -> float:
        if self._busy:
            return BUSY_PAUSE_S
        until_s = min((_next_moment_s(each) for each in self._book.live()), default=None)
        return TICK_S if until_s is None else max(0.0, min(TICK_S, until_s - self._clock()))

    def _catch_up(self) -> None:
        self._busy = False
        if self._fabric.take_events():
            self._judge = True
            with self._writer.lock:
                self._bring(self._fabric.aim_around_links_down())
        self._writer.sweep()
        now_s = self._clock()
        for reservation in self._book.live():
            if _next_moment_s(reservation) <= now_s:
                self._in_turn(reservation, self._pass_on)
        if self._judge:
            self._judge = False
            self._judge_all()
        self._fabric.restore()
        self._fabric.check_wiring()
        if now_s >= self._forget_at_s:
            self._forget_at_s = now_s + FORGET_EVERY_S
            self._repeats.forget_old(now_s)

    def _in_turn(self, reservation: Reservation, change: Callable[[Reservation], Touched]) -> None:
        """Change a reservation unless somebody else is at it; then soon."""
        if not self._writer.turns.take(reservation.id):
            self._busy = self._judge = True
            return
        try:
            with self._writer.lock:
                now = self._book.known.get(reservation.id)
                touched = change(now) if now is not None and now.is_live else {}
            self._bring(touched)
        finally:
            self._writer.turns.give_up(reservation.id)

    def _bring(self, touched: Touched, drain: float = 0.0) -> None:
        def done(_: Future[None]) -> None:
            self._fabric.wake()

        if touched:
            self._fabric.bring(touched, drain).add_done_callback(done)

    # Time -----------------------------------------------------------------------------------------------------------

    def _pass_on(self, reservation: Reservation) -> Touched:
        """What is due: the end of its lease, its end, or its start."""
        now_s = self._clock()
        if reservation.expires_at_s <= now_s:
            return self._writer.end(reservation, State.EXPIRED, NOT_RENEWED)
        if reservation.end_at_s is not None and reservation.end_at_s <= now_s:
            if reservation.state in INSTALLED:
                return self._writer.end(reservation, State.ENDED, None)
            return self._writer.end(reservation, State.FAILED, NEVER_STARTED)
        if reservation.state is State.SCHEDULED and reservation.start_at_s <= now_s:
            return self._begin(reservation)
        return {}

    def _begin(self, reservation: Reservation) -> Touched:
        broken = broken_links(reservation, self._fabric.down)
        moved = self._placed_anew(reservation) if broken else None
        reservation = moved or reservation
        lacking = _why_not([] if moved else broken, switches_of(reservation) - self._fabric.in_step())
        begun = reservation.moved_to(State.DEGRADED if lacking else State.ACTIVE, lacking)
        self._writer.record(begun)
        return self._fabric.aim({begun.id: begun})

    # Links and switches ---------------------------------------------------------------------------------------------

    def _judge_all(self) -> None:
        """What a failure has broken is placed anew, the most important first; what cannot be is degraded."""
        with self._writer.lock:
            concerned = [each for each in self._book.live() if each.state in INSTALLED and self._is_concerned(each)]
        for reservation in sorted(concerned, key=_order):
            self._in_turn(reservation, self._judge_one)

    def _is_concerned(self, reservation: Reservation) -> bool:
        return reservation.state is State.DEGRADED or bool(broken_links(reservation, self._fabric.down))

    def _judge_one(self, reservation: Reservation) -> Touched:
        broken = broken_links(reservation, self._fabric.down)
        moved = self._placed_anew(reservation) if broken else None
        away = switches_of(moved or reservation) - self._fabric.in_step()
        lacking = _why_not([] if moved else broken, away if reservation.state is State.DEGRADED else frozenset())
        now = moved or reservation
        if lacking is None and now.state is State.DEGRADED:
            now = now.moved_to(State.ACTIVE)
        elif lacking is not None:
            now = replace(now, reason=lacking) if now.state is State.DEGRADED else now.moved_to(State.DEGRADED, lacking)
        if now == reservation:
            return {}
        self._writer.record(now)
        log.warning("reservation id=%s state=%s version=%d reason=%s", now.id, now.state, now.version, now.reason)
        return self._fabric.aim({now.id: now}) if moved else {}

    def _placed_anew(self, reservation: Reservation) -> Reservation | None:
        flows = tuple(each.flow for each in reservation.placements)
        end_s = reservation.end_at_s if reservation.end_at_s is not None else float("inf")
        version = reservation.version + 1
        decision = self._writer.decide(Request(reservation.id, version, flows, None, end_s))
        if not isinstance(decision, Admitted):
            return None
        moved = replace(reservation, version=version, placements=decision.placements)
        if not switches_of(moved) <= self._fabric.in_step():
            return None
        self._book.count(moved, decision)
        return moved

    # The checker ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        names = [switch.name for switch in self._writer.network.switches]
        for turn in count():
            if self._stopping.wait(self._check_s):
                return
            name = names[turn % len(names)]
            if name in self._fabric.in_step():
                try:
                    self._fabric.compare([name], repair=True)
                except Exception:
                    log.exception("checker: switch=%s could not be compared", name)


def _next_moment_s(reservation: Reservation) -> float:
    """When time changes something about it."""
    moments = [reservation.expires_at_s]
    if reservation.end_at_s is not None:
        moments.append(reservation.end_at_s)
    if reservation.state is State.SCHEDULED:
        moments.append(reservation.start_at_s)
    return min(moments)


def _why_not(broken: list[str], away: frozenset[str]) -> str | None:
    if broken:
        return f"Down: {', '.join(broken)}."
    if away:
        return f"Not yet in step: {', '.join(sorted(away))}."
    return None


def _order(reservation: Reservation) -> tuple[int, float]:
    """The most important first, then the oldest."""
    return min(each.flow.requirement.rank for each in reservation.placements), reservation.created_at_s
