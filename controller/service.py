"""The one writer: every change to reservations and switches goes through here, one at a time.

A request is decided, written down as held, installed, confirmed by barriers from every switch, written down as active,
and answered. If a switch fails on the way, everything is put back and the request is answered with what happened.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from controller.admission import Admitted, Rejected, Request, bookings_of, decide
from controller.asked import Asked, RepeatKey
from controller.bookings import Bookings
from controller.bounds import DEFAULT_CALIBRATION, Calibration
from controller.errors import NotFound, NotHeld, NotLive
from controller.events import ServiceEvent, SwitchReport
from controller.fabric import TICK_S, Fabric, SwitchCounters
from controller.ledger import Ledger
from controller.network import Network
from controller.reservation import Flow, Reservation, State
from controller.switches import Switches

log = logging.getLogger(__name__)

KEPT_ENDED = 1000
"""Reservations that have ended and are still listed; older ones are in the ledger."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the network stands at one moment."""

    network: Network
    bookings: Bookings
    down: frozenset[str]
    switches_up: frozenset[str]
    complaints: tuple[str, ...]
    now_s: float


class Service:
    """Reservations with a life, on a fabric of switches. Thread-safe; `start` before use, `stop` after."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        ledger: Ledger,
        calibration: Calibration = DEFAULT_CALIBRATION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.network = network
        self._switches = switches
        self._ledger = ledger
        self._calibration = calibration
        self._clock = clock
        self._fabric = Fabric(network, switches)
        self._lock = threading.RLock()
        self._reservations: dict[str, Reservation] = {}
        self._bookings = Bookings()
        self._listeners: list[Callable[[ServiceEvent], None]] = []
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="paceline-watcher", daemon=True)

    def start(self) -> None:
        """Take up what the ledger holds and begin to listen to the switches."""
        with self._lock:
            for reservation in self._ledger.live():
                self._take_up(reservation)
        self._watcher.start()

    def stop(self) -> None:
        """Stop listening; the switches keep what they hold."""
        self._stopping.set()
        self._switches.events.put(None)
        self._watcher.join(timeout=10)
        self._ledger.close()

    # What clients ask for -------------------------------------------------------------------------------------------

    def reserve(self, asked: Asked, repeat: RepeatKey | None = None) -> tuple[Reservation, bool]:  # noqa: ARG002
        """Admit all flows or none, install them, and answer when every switch has confirmed.

        The answer to an earlier request with the same `repeat` is given again, and True with it.

        Raises: Refused or UnknownHost if they cannot be promised, SwitchError if a switch did not do its part,
        KeyReused or InProgress if `repeat` stands for another request or one not answered yet, Overloaded.
        """
        owner, lease_s, flows = asked.owner, asked.lease_s, asked.flows
        with self._lock:
            now_s, number = self._clock(), self._new_number()
            name = f"r-{number:08x}"
            admitted = self._decide(Request(name, 1, flows), now_s)
            times = lease_s, now_s, now_s + lease_s
            held = Reservation(name, number, 1, owner, State.HELD, *times, admitted.placements)
            self._fabric.require(switch for placement in held.placements for switch in placement.switches)
            self._ledger.save(held)
            live = {**self._live(), **{r.id: r for r in admitted.standing}, held.id: held}
            try:
                self._fabric.install(live.values())
            except Exception as error:
                self._ledger.save(held.moved_to(State.FAILED, str(error)))
                self._fabric.restore(self._live().values())
                raise
            active = held.moved_to(State.ACTIVE)
            self._ledger.save(active)
            self._put(*live.values(), active)
            self._bookings = admitted.bookings
            log.info("reserved id=%s owner=%s flows=%d", active.id, owner, len(flows))
            return active, False

    def commit(self, reservation_id: str) -> Reservation:
        """Turn a held reservation into a scheduled or active one; one that is already answers as it stands.

        Raises: NotFound, NotHeld, Refused, SwitchError; then it is held as before.
        """
        with self._lock:
            raise NotHeld(f"Reservation {reservation_id} is not held.")

    def quote(self, asked: Asked) -> Admitted | Rejected:
        """What `reserve` would decide now; nothing is reserved."""
        with self._lock:
            now_s = self._clock()
            standing = tuple(self._live().values())
            request = Request("", 1, asked.flows)
            down = self._fabric.down
            return decide(self.network, self._bookings, standing, request, now_s, down, self._calibration)

    def consistency(self) -> tuple[SwitchReport, ...]:
        """What every switch holds against what it should; reads all of them."""
        return ()

    def repair(self) -> tuple[SwitchReport, ...]:
        """Put right what `consistency` finds missing or wrong; how it stands then."""
        return self.consistency()

    def listen(self, listener: Callable[[ServiceEvent], None]) -> Callable[[], None]:
        """Have this called with whatever happens, in the thread where it happens; it must not wait.

        What it returns ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def modify(self, reservation_id: str, lease_s: float | None, flows: tuple[Flow, ...] | None) -> Reservation:
        """Renew the lease and, if flows are given, change what is reserved without interrupting what stays.

        Raises: as `reserve`, and NotFound or NotLive. On any of them the reservation stays as it was.
        """
        with self._lock:
            before = self._found_live(reservation_id)
            now_s, lease_s = self._clock(), lease_s or before.lease_s
            renewed = replace(before, version=before.version + 1, lease_s=lease_s, expires_at_s=now_s + lease_s)
            if flows is not None:
                renewed = self._replace_flows(renewed, flows, now_s)
            self._ledger.save(renewed)
            self._put(renewed)
            return renewed

    def _replace_flows(self, renewed: Reservation, flows: tuple[Flow, ...], now_s: float) -> Reservation:
        admitted = self._decide(Request(renewed.id, renewed.version, flows), now_s)
        self._fabric.require(name for placement in admitted.placements for name in placement.switches)
        changed = replace(renewed, placements=admitted.placements)
        if changed.state is State.DEGRADED:
            changed = changed.moved_to(State.ACTIVE)
        live = {**self._live(), **{r.id: r for r in admitted.standing}, changed.id: changed}
        try:
            self._fabric.install(live.values())
        except Exception:
            self._fabric.restore(self._live().values())
            raise
        self._put(*live.values())
        self._bookings = admitted.bookings
        return changed

    def release(self, reservation_id: str) -> Reservation:
        """End a reservation now; one that has already ended stays as it is.

        A switch that cannot be told is told as soon as it can be.

        Raises: NotFound.
        """
        with self._lock:
            reservation = self.reservation(reservation_id)
            if not reservation.is_live:
                return reservation
            return self._end(reservation, State.RELEASED, None)

    def reservation(self, reservation_id: str) -> Reservation:
        """The reservation of that id.

        Raises: NotFound.
        """
        reservation = self._reservations.get(reservation_id)
        if reservation is None:
            with self._lock:
                reservation = self._ledger.find(reservation_id)
        if reservation is None:
            raise NotFound(f"There is no reservation {reservation_id}.")
        return reservation

    def reservations(self, state: State | None = None) -> list[Reservation]:
        """All that are live and the last KEPT_ENDED that are not, oldest first."""
        return [reservation for reservation in self._reservations.values() if state in (None, reservation.state)]

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """What the switches have counted for it, and the switches that could not be read. Takes no lock."""
        return self._fabric.counters(reservation) if reservation.is_live else ([], [])

    def snapshot(self) -> Snapshot:
        """How the network stands now."""
        with self._lock:
            fabric = self._fabric
            facts = fabric.down, fabric.in_step(), tuple(fabric.complaints())
            return Snapshot(self.network, self._bookings, *facts, self._clock())

    def switches_up(self) -> int:
        """How many switches are connected and hold what they should."""
        return len(self._fabric.in_step())

    # What time and the switches bring -------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._fabric.wait_for_event(self._pause_s())
            try:
                with self._lock:
                    if not self._stopping.is_set():
                        self._catch_up()
            except Exception:
                # The watcher must outlive whatever went wrong; the fabric is compared again at the next turn.
                log.exception("watcher: what happened could not be dealt with")
                self._stopping.wait(1.0)

    def _pause_s(self) -> float:
        next_expiry_s = min((r.expires_at_s for r in self._live().values()), default=None)
        until_expiry_s = TICK_S if next_expiry_s is None else next_expiry_s - self._clock()
        return max(0.0, min(TICK_S, until_expiry_s))

    def _catch_up(self) -> None:
        now_s = self._clock()
        for reservation in [r for r in self._live().values() if r.expires_at_s <= now_s]:
            self._end(reservation, State.EXPIRED, "The lease was not renewed.")
        links_changed = self._fabric.take_events()
        if links_changed:
            self._judge_links()
        self._fabric.restore(self._live().values(), include_in_step=links_changed)
        self._fabric.check_wiring()

    def _judge_links(self) -> None:
        """A reservation across a link that is down is degraded until the link is back."""
        for reservation in self._live().values():
            links = {link for placement in reservation.placements for link in placement.link_names}
            broken = sorted(links & self._fabric.down)
            moved = reservation
            if broken and reservation.state is State.ACTIVE:
                moved = reservation.moved_to(State.DEGRADED, f"Down: {', '.join(broken)}.")
            elif broken and reservation.state is State.DEGRADED:
                moved = replace(reservation, reason=f"Down: {', '.join(broken)}.")
            elif not broken and reservation.state is State.DEGRADED:
                moved = reservation.moved_to(State.ACTIVE)
            if moved != reservation:
                self._put(moved)
                self._ledger.save(moved)
                log.warning("reservation id=%s state=%s reason=%s", moved.id, moved.state, moved.reason)

    def _end(self, reservation: Reservation, state: State, reason: str | None) -> Reservation:
        ended = reservation.moved_to(state, reason)
        self._ledger.save(ended)
        self._put(ended)
        self._bookings = self._bookings.without(ended.id)
        self._fabric.restore(self._live().values(), include_in_step=True)
        log.info("ended id=%s state=%s", ended.id, ended.state)
        return ended

    def _take_up(self, reservation: Reservation) -> None:
        """Bring back a reservation from before a restart, unless its time or its path is gone."""
        state, reason = reservation.state, None
        if state is State.HELD:
            state, reason = State.FAILED, "The controller stopped before it was installed."
        elif reservation.expires_at_s <= self._clock():
            state, reason = State.EXPIRED, "The lease was not renewed."
        elif any(link not in self.network.links for p in reservation.placements for link in p.link_names):
            state, reason = State.FAILED, "The map has changed and its path is gone."
        if reason is not None:
            reservation = reservation.moved_to(state, reason)
            self._ledger.save(reservation)
        else:
            self._bookings = self._bookings.adding(
                bookings_of(reservation.id, reservation.placements, reservation.created_at_s)
            )
        self._put(reservation)

    # Small things ---------------------------------------------------------------------------------------------------

    def _decide(self, request: Request, now_s: float) -> Admitted:
        standing = tuple(self._live().values())
        down = self._fabric.down
        decision = decide(self.network, self._bookings, standing, request, now_s, down, self._calibration)
        if isinstance(decision, Rejected):
            raise decision.error
        return decision

    def _live(self) -> dict[str, Reservation]:
        return {name: reservation for name, reservation in self._reservations.items() if reservation.is_live}

    def _found_live(self, reservation_id: str) -> Reservation:
        reservation = self.reservation(reservation_id)
        if not reservation.is_live:
            raise NotLive(f"Reservation {reservation_id} is {reservation.state} and cannot be changed.")
        return reservation

    def _new_number(self) -> int:
        taken = {reservation.number for reservation in self._reservations.values()}
        while True:
            number = secrets.randbits(32)
            if number and number not in taken and self._ledger.find(f"r-{number:08x}") is None:
                return number

    def _put(self, *reservations: Reservation) -> None:
        """Remember how these stand now. The old mapping stays as it was, so readers need no lock."""
        known = {**self._reservations, **{reservation.id: reservation for reservation in reservations}}
        ended = [name for name, reservation in known.items() if not reservation.is_live]
        for name in ended[: max(0, len(ended) - KEPT_ENDED)]:
            del known[name]
        self._reservations = known
