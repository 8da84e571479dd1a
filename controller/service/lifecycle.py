"""Applies what time and switches cause: lease expiry, starts and ends, link failures, switches that (dis)connect.

One thread waits for events and for the next due time; it never waits for a switch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from time import monotonic

from controller.admission.restoration import restore
from controller.dataplane.entries import meters_in
from controller.dataplane.intended_state import ChangedKeys
from controller.domain.reservation import Reservation, State
from controller.errors import Overloaded
from controller.service.loading import ReservationLoader
from controller.service.reservation_times import next_due_s
from controller.service.state import INSTALLED, ServiceState, drain_time_s, has_unrouted_flow, switches_of

log = logging.getLogger(__name__)

TICK_S = 1.0
RETRY_PAUSE_S = 0.05
"""Pause before a reservation that was locked by a request is processed again."""
FIRST_RESTORATION_S = 10.0
"""How long after the start link states are awaited from all switches."""

NEVER_STARTED = "Its end passed before it could be installed."
NOT_RENEWED = "The lease was not renewed."


class LifecycleManager:
    """Keeps reservations to their lifetimes and re-evaluates them when links change."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        self.loader = ReservationLoader(state)
        self._store, self._switches, self._clock = state.store, state.switches, state.clock
        self._stopping = threading.Event()
        self._restoration_due = False
        self._first_restoration_s = inf
        self._has_locked = False
        self._unpublished: set[str] = set()
        """Ids of reservations that were re-evaluated while a request held their locks."""
        self._are_links_applied = True
        self._awaiting_switches: set[str] = set()
        self._waiters: deque[Future[tuple[Future[None], ...]]] = deque()
        self._updates: list[Future[None]] = []
        self._left_paths: deque[str] = deque()
        """Ids of draining flows that no switch sends any more."""
        self._thread = threading.Thread(target=self._run, name="paceline-lifecycle", daemon=True)

    def start(self) -> None:
        """Load the live reservations of the ledger, and start the thread."""
        self.loader.load()
        self._first_restoration_s = monotonic() + FIRST_RESTORATION_S
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end for up to 10 s."""
        self._stopping.set()
        self._switches.stop()
        self._switches.wake()
        self._thread.join(timeout=10)

    def process_pending(self, wait_s: float) -> tuple[Future[None], ...]:
        """Have all events up to now processed; returns the switch updates they have caused.

        Raises: Overloaded if that takes longer than `wait_s`.
        """
        waiter: Future[tuple[Future[None], ...]] = Future()
        self._waiters.append(waiter)
        self._switches.wake()
        try:
            return waiter.result(wait_s)
        except TimeoutError as error:
            raise Overloaded(f"Recorded, but not processed within {wait_s:g} s.", retry_after_s=1.0) from error

    def recheck(self, reservation: Reservation) -> None:
        """Re-evaluate a reservation if a link of its paths failed or recovered while it was being changed."""
        if reservation.state is State.DEGRADED or has_unrouted_flow(reservation, self._switches.links.down):
            self.recheck_all()

    def recheck_all(self) -> None:
        """Re-evaluate all reservations."""
        self._restoration_due = True
        self._switches.wake()

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.loader.intend()
        self._switches.start()
        while not self._stopping.is_set():
            self._switches.wait_for_event(self._pause_s())
            waiters = [self._waiters.popleft() for _ in range(len(self._waiters))]
            try:
                if not self._stopping.is_set():
                    self._updates.clear()
                    self._process()
                    for waiter in waiters:
                        waiter.set_result(tuple(self._updates))
            except Exception:
                # The thread must survive any error; the switches are compared again in the next pass.
                log.exception("lifecycle: events could not be processed")
                self._waiters.extend(waiters)
                self._stopping.wait(1.0)

    def _pause_s(self) -> float:
        if self._has_locked:
            return RETRY_PAUSE_S
        published = self._store.published_live()
        due_s = min((next_due_s(each) for each in published), default=inf)
        pause_s = min(TICK_S, due_s - self._clock())
        if any(each.state is State.DEGRADED for each in published):
            pause_s = min(pause_s, self._store.drains_in_s())
        return max(0.0, pause_s)

    def _process(self) -> None:
        self._has_locked = False
        self._state.follow_clock()
        if self._switches.process_events():
            self._restoration_due, self._are_links_applied = True, False
        if not self._are_links_applied:
            with self._state.lock:
                changed_keys = self._switches.set_links_down()
            self._are_links_applied = True
            self._synchronize(changed_keys)
        if self._is_first_restoration_due():
            self._restoration_due = True
        with self._state.lock:
            for _ in range(len(self._left_paths)):
                self._store.end_drain(self._left_paths.popleft())
            self._state.purge()
            has_freed = self._store.take_freed()
        if has_freed and any(each.state is State.DEGRADED for each in self._store.published_live()):
            self._restoration_due = True
        errors = self._process_due()
        if self._restoration_due or (self._awaiting_switches and self._awaited_switches_are_back()):
            self._restore_all()
        if self._unpublished:
            self._publish_skipped()
        for first in self._switches.pop_first_readings():
            self.loader.adopt_meters(first.switch, meters_in(first.reading.entries))
            self._switches.synchronize_first(first)
        self._switches.resynchronize()
        self._switches.links.check_wiring()
        if errors:
            raise errors[0]

    def _process_due(self) -> list[Exception]:
        """Expire, end and start what is due; an error of one reservation does not delay the others, or restoration."""
        now_s, errors = self._clock(), []
        due = [reservation for reservation in self._store.published_live() if next_due_s(reservation) <= now_s]
        # Ends first: after a step of the clock, what starts may need their capacity.
        for reservation in sorted(due, key=lambda each: each.installed_until_s > now_s):
            try:
                self._change_locked(reservation, self._apply_due_transition)
            except Exception as error:  # noqa: BLE001 - raised at the end of the pass
                errors.append(error)
        return errors

    def _is_first_restoration_due(self) -> bool:
        """Whether all switches have reported their links since the start, or have had the time to; true once."""
        all_in_step = len(self._switches.in_step()) == len(self._state.network.switches)
        if self._first_restoration_s < inf and (all_in_step or monotonic() >= self._first_restoration_s):
            self._first_restoration_s = inf
            return True
        return False

    def _change_locked(self, reservation: Reservation, change: Callable[[Reservation], ChangedKeys]) -> None:
        """Change a reservation under its lock; if a request holds the lock, in the next pass."""
        with self._state.reservation_locks.try_hold(reservation.id) as has_lock:
            if not has_lock:
                self._has_locked = self._restoration_due = True
                return
            with self._state.lock:
                current = self._store.published.get(reservation.id)
                changed_keys = change(current) if current is not None and current.is_live else {}
            self._synchronize(changed_keys)

    def _synchronize(self, changed_keys: ChangedKeys, drain_s: float = 0.0, draining_ids: Sequence[str] = ()) -> None:
        """Start to update switches; then nothing is sent on the former paths of the flows `draining_ids`."""

        def on_end(_: Future[None]) -> None:
            self._left_paths.extend(draining_ids)
            self._switches.wake()

        if changed_keys:
            update = self._switches.updates.synchronize(changed_keys, drain_s)
            self._updates.append(update)
            update.add_done_callback(on_end)
        else:
            self._left_paths.extend(draining_ids)

    # Due times ------------------------------------------------------------------------------------------------------

    def _apply_due_transition(self, reservation: Reservation) -> ChangedKeys:
        """Expire, end or start a reservation that is due."""
        now_s = self._clock()
        if reservation.expires_at_s <= now_s:
            return self._state.end(reservation, State.EXPIRED, NOT_RENEWED)
        if reservation.installed_until_s <= now_s:
            if reservation.state in INSTALLED:
                return self._state.end(reservation, State.ENDED, None)
            return self._state.end(reservation, State.FAILED, NEVER_STARTED)
        if reservation.state is State.SCHEDULED and reservation.start_at_s <= now_s:
            return self._begin(reservation)
        return {}

    def _begin(self, reservation: Reservation) -> ChangedKeys:
        started = self._degraded_if_out_of_step(reservation.with_state(State.ACTIVE))
        self._state.record_later(started)
        self._restoration_due = self._restoration_due or has_unrouted_flow(started, self._switches.links.down)
        return self._state.set_intended({started.id: started})

    # Links and switches ---------------------------------------------------------------------------------------------

    def _restore_all(self) -> None:
        """Re-evaluate all reservations: reroute those that failures affect, in order of rank; degrade the others."""
        self._restoration_due = False  # a request may set it from here on
        try:
            with self._state.lock:
                store, now_s, down = self._store, self._clock(), self._switches.links.down
                facts = now_s, down, self._state.calibration, store.ended()
                live = store.live_with_draining_bursts()
                restoration = restore(self._state.network, store.calendar, live, *facts)
                changed = [reservation for reservation in restoration.changed if reservation.state in INSTALLED]
                draining_ids = store.apply_restoration(restoration)
                changed_keys = self._state.set_intended({reservation.id: reservation for reservation in changed})
                self._publish_news(changed)
        except Exception:
            self._restoration_due = True
            raise
        self._synchronize(changed_keys, drain_time_s(*changed), draining_ids)

    def _publish_skipped(self) -> None:
        """Publish the reservations that were re-evaluated while a request held their locks, if it does not any more."""
        with self._state.lock:
            skipped, self._unpublished = self._unpublished, set()
            self._publish_news([live for name in sorted(skipped) if (live := self._store.live.get(name)) is not None])

    def _publish_news(self, changed: list[Reservation]) -> None:
        """Publish and record those that differ from what is published. Under the lock of the state."""
        news = [news for each in changed if (news := self._news_of(each)) is not None]
        self._state.record_later(*news)
        for reservation in news:
            log.warning("reservation id=%s state=%s", reservation.id, reservation.state)

    def _news_of(self, reservation: Reservation) -> Reservation | None:
        """The version to record and publish after a restoration; None: unchanged, or a request is changing it.

        That request records the reservation as it then is; where it fails or does not, `_publish_skipped` does.
        """
        published = self._store.published.get(reservation.id)
        if published is None or not published.is_live:
            return None
        if self._state.reservation_locks.is_held(reservation.id):
            self._unpublished.add(reservation.id)
            self._has_locked = True
            return None
        was_moved = _paths(published) != _paths(reservation) or reservation.id in self._awaiting_switches
        current = self._degraded_if_out_of_step(reservation) if was_moved else reservation
        return None if current == published else current

    def _degraded_if_out_of_step(self, reservation: Reservation) -> Reservation:
        """The reservation, degraded as long as a switch on its paths is out of step."""
        out_of_step = sorted(switches_of(reservation) - self._switches.in_step())
        if not out_of_step:
            self._awaiting_switches.discard(reservation.id)
            return reservation
        self._awaiting_switches.add(reservation.id)
        reason = f"Not yet in step: {', '.join(out_of_step)}."
        if reservation.state is State.DEGRADED:
            return replace(reservation, reason=" ".join(filter(None, (reservation.reason, reason))))
        return reservation.with_state(State.DEGRADED, reason)

    def _awaited_switches_are_back(self) -> bool:
        """Whether all switches of a started or moved reservation that awaited one are in step again."""
        awaiting = [self._store.published.get(reservation_id) for reservation_id in tuple(self._awaiting_switches)]
        self._awaiting_switches = {each.id for each in awaiting if each is not None and each.is_live}
        in_step = self._switches.in_step()
        return any(each is not None and switches_of(each) <= in_step for each in awaiting)


def _paths(reservation: Reservation) -> list[tuple[object, object]]:
    return [(placement.path, placement.backup_path) for placement in reservation.carried_placements]
