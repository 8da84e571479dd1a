"""Tells reservations anew whose bounds no longer hold because of what other reservations do.

A bound told stays valid until the current one exceeds it; then the reservation gets a new version with new bounds, in
the ledger and as an event. A decision only raises bounds; a thread finds the reservations concerned afterwards and
tells them together, so that no decision waits for it. A client that reads a reservation first has it told.

Switches are not concerned: their entries carry the version of the placement, not that of the reservation.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from controller.admission.live_reservations import LiveReservations
from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.calculus.network_bounds import NoBound
from controller.domain.events import ReservationChanged, ServiceEvent
from controller.domain.reservation import Reservation
from controller.service.state import ServiceState

log = logging.getLogger(__name__)

INTERVAL_S = 0.1
"""Time between two passes, so that growth by several requests is told once."""

LOAD_SHARE = 0.01
"""Share of the time that passes may take; the interval grows accordingly. Writing what they tell takes as much."""

FALL_INTERVAL_S = 10.0
"""Bounds that have fallen are told at most this often, so that a neighbour that comes and goes causes few events."""

START_WAIT_S = 10.0
"""How long after the start nothing is told unless a client asks, so that it delays no switch that is not in step yet.
"""

TELLING_SHARE = 0.1
"""Share of the time that telling takes while many reservations are told."""

MAX_TOLD = 64
"""Reservations told in one transaction."""

READ_WAIT_S = 1.0
"""How long a reader waits to have a reservation told."""


class BoundUpdates:
    """The bounds that clients have been told. Thread-safe; `start` before use, `stop` after."""

    def __init__(self, state: ServiceState, fall_interval_s: float = FALL_INTERVAL_S) -> None:
        self._state, self._store = state, state.store
        self._fall_interval_s = fall_interval_s
        self._published: deque[str] = deque()
        """Ids of reservations published since the last pass."""
        self._due: set[str] = set()
        """Ids of reservations whose bounds may have grown."""
        self._links: dict[str, frozenset[str]] = {}
        """By reservation: the links that its flows may cross, over all failures."""
        self._by_link: dict[str, set[str]] = {}
        self._by_programmes: set[str] = set()
        """Reservations with bounds that may grow although no delay of a link does."""
        self._delays_us: dict[tuple[str | None, str], float] = {}
        self._examined: LiveReservations | None = None
        self._examined_for_falls: LiveReservations | None = None
        self._next_fall_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paceline-bounds", daemon=True)

    def start(self) -> None:
        """Follow the reservations that have been loaded, and start the thread."""
        self._published.extend(self._store.published)
        self._state.listeners = (*self._state.listeners, self._on_event)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end for up to 10 s."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def told(self, reservations: Sequence[Reservation]) -> list[Reservation]:
        """These published reservations, told anew where a bound no longer holds.

        While a request is changing a reservation, and if the lock is not free within READ_WAIT_S, it is as it was.
        """
        outdated = [each.id for each in reservations if self._store.retold(each, with_falls=False) is not each]
        for first in range(0, len(outdated), MAX_TOLD):
            if not self._state.lock.acquire(timeout=READ_WAIT_S):
                break
            try:
                self._tell(outdated[first : first + MAX_TOLD], with_falls=False)
            finally:
                self._state.lock.release()
        renewed = dict.fromkeys(outdated)
        return [self._store.published.get(each.id, each) if each.id in renewed else each for each in reservations]

    def followed(self) -> frozenset[str]:
        """The ids of the reservations whose bounds are followed."""
        return frozenset(self._links)

    def _on_event(self, event: ServiceEvent) -> None:
        if isinstance(event, ReservationChanged):
            self._published.append(event.reservation.id)

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._wait_for_switches()
        # The meters of switches that are away are not known yet: bounds only seem to have fallen.
        self._next_fall_s = time.monotonic() + self._fall_interval_s
        pause_s = INTERVAL_S
        while not self._stopping.wait(pause_s):
            started_s = time.monotonic()
            try:
                self.process()
            except Exception:
                # The thread must survive any error; what is due stays due.
                log.exception("bounds could not be told anew")
            pause_s = max(INTERVAL_S, (time.monotonic() - started_s) / LOAD_SHARE)

    def _wait_for_switches(self) -> None:
        until_s, count = time.monotonic() + START_WAIT_S, len(self._state.network.switches)
        while len(self._state.switches.in_step()) < count and time.monotonic() < until_s:
            if self._stopping.wait(INTERVAL_S):
                return

    def process(self) -> None:
        """Tell anew every reservation whose bounds have grown, and now and then those whose bounds have fallen."""
        live = self._store.live_with_draining_bursts()
        try:
            self._follow_published(live)
            if live is not self._examined:
                self._examine(live)
        except NoBound:  # possible only if the calibration changed after an admission
            return
        self._tell_due(self._due, with_falls=False)
        if live is not self._examined_for_falls and time.monotonic() >= self._next_fall_s:
            self._next_fall_s = time.monotonic() + self._fall_interval_s
            self._examined_for_falls = live
            self._tell_due(set(self._links), with_falls=True)

    def _follow_published(self, live: LiveReservations) -> None:
        """Update the links of the reservations published since the last pass, and add these to `_due`."""
        carried = live.bounds.carried_flows
        while self._published:
            reservation_id = self._published.popleft()
            self._due.add(reservation_id)
            published = self._store.published.get(reservation_id)
            # One that has ended counts in `live` until its packets have left the network; no event tells when.
            is_followed = published is not None and published.is_live
            self._index(live.get(reservation_id) if is_followed else None, reservation_id, carried)

    def _examine(self, live: LiveReservations) -> None:
        """Add to `_due` every reservation on a link whose delay has grown since the last call."""
        delays_us = live.bounds.link_delays_us()
        before_us = self._delays_us
        grown = {
            link
            for (failure, link), delay_us in delays_us.items()
            if delay_us > before_us.get((failure, link), before_us.get((None, link), 0.0))
        }
        for link in grown:
            self._due |= self._by_link.get(link, set())
        self._due |= self._by_programmes
        self._delays_us, self._examined = delays_us, live

    def _index(
        self, reservation: Reservation | None, reservation_id: str, carried: Mapping[FlowKey, CarriedFlow]
    ) -> None:
        for link in self._links.pop(reservation_id, ()):
            self._by_link[link].discard(reservation_id)
        self._by_programmes.discard(reservation_id)
        if reservation is None:
            return
        srlgs = self._state.network.srlg_by_span
        flows = [carried.get((reservation_id, placement.flow.name)) for placement in reservation.placements]
        links = self._links[reservation_id] = frozenset(
            link for flow in flows if flow is not None for link in flow.possible_links(srlgs)
        )
        if any(flow is not None and flow.by_programmes for flow in flows):
            self._by_programmes.add(reservation_id)
        for link in links:
            self._by_link.setdefault(link, set()).add(reservation_id)

    def _tell_due(self, due: set[str], with_falls: bool) -> None:
        """Tell those of `due` whose bounds are outdated, and remove from it those that need no more attention."""
        published = self._store.published
        outdated = []
        for reservation_id in sorted(due):
            reservation = published.get(reservation_id)
            if reservation is not None and self._store.retold(reservation, with_falls) is not reservation:
                outdated.append(reservation_id)
            else:
                due.discard(reservation_id)
        for first in range(0, len(outdated), MAX_TOLD):
            started_s = time.monotonic()
            with self._state.lock:
                due -= self._tell(outdated[first : first + MAX_TOLD], with_falls)
            if first + MAX_TOLD < len(outdated):  # requests and switches are not to wait for thousands
                self._stopping.wait((time.monotonic() - started_s) / TELLING_SHARE)

    def _tell(self, reservation_ids: Collection[str], with_falls: bool) -> set[str]:
        """Record and publish new versions where bounds are outdated; returns the ids that are done. Under the lock.

        A reservation that a request is changing is recorded by that request.
        """
        done, news = set(), []
        for reservation_id in reservation_ids:
            reservation = self._store.published.get(reservation_id)
            if reservation is None or not reservation.is_live:
                done.add(reservation_id)
            elif self._is_settled(reservation):
                done.add(reservation_id)
                told = self._store.retold(reservation, with_falls)
                if told is not reservation:
                    news.append(replace(told, version=told.version + 1))
        if news:
            self._state.record_later(*news, cause="other_reservations", makes_room=False)
            log.info("bounds told anew reservations=%s", ",".join(each.id for each in news))
        return done

    def _is_settled(self, reservation: Reservation) -> bool:
        """Whether no request is changing it, so that it counts for admission as it is published.

        What it sent itself before a change is no reason to tell it anew; that has left the network soon.
        """
        if self._state.reservation_locks.is_held(reservation.id) or self._store.is_draining(reservation.id):
            return False
        current = self._store.live.get(reservation.id)
        return current is reservation or current == reservation
