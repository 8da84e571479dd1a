"""What time and the switches bring: leases that run out, starts and ends, links that fail, switches that come and go.

One thread waits for events and the next moment, and never for a switch. Another reads the switches back in turn.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from math import inf
from time import monotonic

from controller.admission.restoration import restore
from controller.dataplane.intended_state import ChangedKeys
from controller.domain.reservation import Reservation, State
from controller.errors import Overloaded
from controller.optical.lightpath_design import is_possible
from controller.service.state import INSTALLED, ServiceState, drain_s, is_stranded, switches_of

log = logging.getLogger(__name__)

CHECK_S = 5.0
"""How often one switch is read back, each in turn; less often if that takes long."""
CHECK_SHARE = 0.02
"""At most this share of the time goes into reading back."""

TICK_S = 1.0
BUSY_PAUSE_S = 0.05
FIRST_JUDGED_S = 10.0
FORGET_EVERY_S = 3600.0

Forget = Callable[[float], None]
"""Drops what is too old at a moment (Unix time)."""

MAP_CHANGED = "The map has changed and its path is gone."
NEVER_STARTED = "Its time was over before it could be installed."
NOT_RENEWED = "The lease was not renewed."


class LifecycleManager:
    """Keeps reservations to their time and switches to what they should hold."""

    def __init__(self, writer: ServiceState, forgets: Sequence[Forget], check_s: float) -> None:
        self._writer = writer
        self._book, self._fabric, self._clock = writer.book, writer.fabric, writer.clock
        self._forgets = tuple(forgets)
        self._check_s = check_s
        self._stopping = threading.Event()
        self._judge = False
        self._first_judged_at_s = monotonic() + FIRST_JUDGED_S
        self._busy = False
        self._waiting: set[str] = set()
        self._forget_at_s = 0.0
        self._askers: deque[Future[tuple[Future[None], ...]]] = deque()
        self._brought: list[Future[None]] = []
        self._threads = [
            threading.Thread(target=self._watch, name="paceline-watcher", daemon=True),
            threading.Thread(target=self._check, name="paceline-checker", daemon=True),
        ]

    def start(self) -> None:
        """Take up what the ledger holds, and begin."""
        with self._writer.lock:
            for reservation in self._writer.ledger.live():
                self._take_up(reservation)
            self._fabric.links.set_out_of_service(self._writer.ledger.closed_spans())
            installed = {each.id: each for each in self._book.live() if each.state in INSTALLED}
            self._fabric.set_intended(installed)
        self._fabric.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads."""
        self._stopping.set()
        self._fabric.stop()
        self._fabric.wake()
        for thread in self._threads:
            thread.join(timeout=10)

    def catch_up(self, wait_s: float) -> tuple[Future[None], ...]:
        """Have what has happened until now dealt with; returns what switches are still being told because of it.

        Raises: Overloaded if the watcher has not come to it in that time.
        """
        asker: Future[tuple[Future[None], ...]] = Future()
        self._askers.append(asker)
        self._fabric.wake()
        try:
            return asker.result(wait_s)
        except TimeoutError as error:
            raise Overloaded(f"It was noted, but not dealt with within {wait_s:g} s.", retry_after_s=1.0) from error

    def look_again(self, reservation: Reservation) -> None:
        """Judge a reservation that was being changed while a link of its path failed or came back."""
        if reservation.state is State.DEGRADED or is_stranded(reservation, self._fabric.links.down):
            self._judge = True
            self._fabric.wake()

    def _take_up(self, reservation: Reservation) -> None:
        """Bring back a reservation from before a restart, unless its path is gone; time is for the watcher."""
        if any(not is_possible(self._writer.network, each) for each in reservation.placements):
            self._writer.record(reservation.with_state(State.FAILED, MAP_CHANGED))
        else:
            self._book.revert(reservation)
            self._book.show(reservation)

    # The watcher ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._fabric.wait_for_event(self._pause_s())
            askers = [self._askers.popleft() for _ in range(len(self._askers))]
            try:
                if not self._stopping.is_set():
                    self._brought.clear()
                    self._catch_up()
                    for asker in askers:
                        asker.set_result(tuple(self._brought))
            except Exception:
                # The watcher must outlive whatever went wrong; the fabric is compared again at the next turn.
                log.exception("watcher: what happened could not be dealt with")
                self._askers.extend(askers)
                self._stopping.wait(1.0)

    def _pause_s(self) -> float:
        if self._busy:
            return BUSY_PAUSE_S
        until_s = min((_next_moment_s(each) for each in self._book.live()), default=None)
        return TICK_S if until_s is None else max(0.0, min(TICK_S, until_s - self._clock()))

    def _catch_up(self) -> None:
        self._busy = False
        if self._fabric.process_events():
            self._judge = True
            with self._writer.lock:
                self._bring(self._fabric.set_links_down())
        if self._is_time_for_the_first():
            self._judge = True
        if self._writer.sweep() and any(each.state is State.DEGRADED for each in self._book.live()):
            self._judge = True  # there is room now
        now_s = self._clock()
        for reservation in self._book.live():
            if _next_moment_s(reservation) <= now_s:
                self._in_turn(reservation, self._apply_due_transition)
        if self._judge or (self._waiting and self._awaited_switches_are_back()):
            self._judge = False
            self._restore_all()
        self._fabric.resynchronize()
        self._fabric.links.check_wiring()
        if now_s >= self._forget_at_s:
            self._forget_at_s = now_s + FORGET_EVERY_S
            for forget in self._forgets:
                _try_to(forget, now_s)

    def _is_time_for_the_first(self) -> bool:
        """After a start nothing is known of links until the switches have spoken; the silent are not waited for."""
        everybody = len(self._fabric.in_step()) == len(self._writer.network.switches)
        if self._first_judged_at_s < inf and (everybody or monotonic() >= self._first_judged_at_s):
            self._first_judged_at_s = inf
            return True
        return False

    def _in_turn(self, reservation: Reservation, change: Callable[[Reservation], ChangedKeys]) -> None:
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
            self._writer.turns.release(reservation.id)

    def _bring(self, touched: ChangedKeys, drain: float = 0.0) -> None:
        def done(_: Future[None]) -> None:
            self._fabric.wake()

        if touched:
            bringing = self._fabric.updates.synchronize(touched, drain)
            self._brought.append(bringing)
            bringing.add_done_callback(done)

    # Time -----------------------------------------------------------------------------------------------------------

    def _apply_due_transition(self, reservation: Reservation) -> ChangedKeys:
        """What is due: the end of its lease, its end, or its start."""
        now_s = self._clock()
        if reservation.expires_at_s <= now_s:
            return self._writer.end(reservation, State.EXPIRED, NOT_RENEWED)
        if reservation.installed_until_s <= now_s:
            if reservation.state in INSTALLED:
                return self._writer.end(reservation, State.ENDED, None)
            return self._writer.end(reservation, State.FAILED, NEVER_STARTED)
        if reservation.state is State.SCHEDULED and reservation.start_at_s <= now_s:
            return self._begin(reservation)
        return {}

    def _begin(self, reservation: Reservation) -> ChangedKeys:
        begun = self._as_far_as_installed(reservation.with_state(State.ACTIVE))
        self._writer.record(begun)
        self._judge = self._judge or is_stranded(begun, self._fabric.links.down)
        return self._fabric.set_intended({begun.id: begun})

    # Links and switches ---------------------------------------------------------------------------------------------

    def _restore_all(self) -> None:
        """What a failure has broken is placed anew, the most important first; what cannot be is degraded."""
        with self._writer.lock:
            book, now_s, down = self._book, self._clock(), self._fabric.links.down
            standing, calibration = book.without_lingering(), self._writer.calibration
            survival = restore(self._writer.network, book.bookings, standing, now_s, down, calibration)
            book.survived(survival)
            changed = [each for each in survival.changed if each.state in INSTALLED]
            touched = self._fabric.set_intended({each.id: each for each in changed})
            news = [news for each in changed if (news := self._news_of(each)) is not None]
            if news:
                self._writer.record(*news)
        for each in news:
            log.warning("reservation id=%s state=%s reason=%s", each.id, each.state, each.reason)
        self._bring(touched, drain_s(*changed))

    def _news_of(self, reservation: Reservation) -> Reservation | None:
        """What clients are to see of it now; None: nothing new.

        Somebody else's change of it may be on its way: he writes it down as it stands by then.
        """
        seen = self._book.known.get(reservation.id)
        if seen is None or not seen.is_live or self._writer.turns.is_taken(reservation.id):
            return None
        moved = _paths(seen) != _paths(reservation) or reservation.id in self._waiting
        shown = self._as_far_as_installed(reservation) if moved else reservation
        return None if shown == seen else shown

    def _as_far_as_installed(self, reservation: Reservation) -> Reservation:
        """Degraded while a switch that must be told of its path cannot be."""
        away = sorted(switches_of(reservation) - self._fabric.in_step())
        if not away:
            self._waiting.discard(reservation.id)
            return reservation
        self._waiting.add(reservation.id)
        reason = f"Not yet in step: {', '.join(away)}."
        if reservation.state is State.DEGRADED:
            return replace(reservation, reason=" ".join(filter(None, (reservation.reason, reason))))
        return reservation.with_state(State.DEGRADED, reason)

    def _awaited_switches_are_back(self) -> bool:
        """Whether the switches that a started or moved reservation waited for are there now."""
        waiting = [self._book.known.get(name) for name in tuple(self._waiting)]
        self._waiting = {each.id for each in waiting if each is not None and each.is_live}
        in_step = self._fabric.in_step()
        return any(each is not None and switches_of(each) <= in_step for each in waiting)

    # The checker ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        names = [switch.name for switch in self._writer.network.switches]
        took_s = 0.0
        for turn in count():
            if self._stopping.wait(max(self._check_s, took_s / CHECK_SHARE)):
                return
            began_s = monotonic()
            name = names[turn % len(names)]
            if name in self._fabric.in_step():
                try:
                    self._fabric.verify([name], repair=True)
                except Exception:
                    log.exception("checker: switch=%s could not be compared", name)
            took_s = monotonic() - began_s


def _try_to(forget: Forget, now_s: float) -> None:
    """What cannot be forgotten now is tried again when it is time the next time."""
    try:
        forget(now_s)
    except Exception:
        log.exception("caretaker: what is old could not be dropped")


def _next_moment_s(reservation: Reservation) -> float:
    """When time changes something about it."""
    moments = [reservation.expires_at_s, reservation.installed_until_s]
    if reservation.state is State.SCHEDULED:
        moments.append(reservation.start_at_s)
    return min(moments)


def _paths(reservation: Reservation) -> list[tuple[object, object]]:
    return [(each.path, each.backup_path) for each in reservation.carried_placements]
