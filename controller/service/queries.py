"""What clients ask, look at and listen to; nothing is changed by it.

`counters` and `consistency` read switches, `quote` takes its turn at the writer's lock; the rest waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.admission.admission import Admitted, Rejected
from controller.admission.counter_offer import attach_offer
from controller.booking.calendar import Calendar
from controller.domain.events import SwitchReport
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.errors import NotFound
from controller.optical.inventory import LightpathState, overview
from controller.routing.coflow import CommonQuote, Volume, shortest_common_transfer
from controller.security.tenant_usage import Usage, usage_of
from controller.service.requests import ReservationSpec, request_of
from controller.service.reservation_ids import name_of
from controller.service.state import INSTALLED, Listener, ServiceState
from controller.switches.verifier import SwitchCounters

NOBODY = name_of(0)
"""The id of what is only asked about."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the network stands at one moment."""

    network: Network
    bookings: Calendar
    down: frozenset[str]
    closed: frozenset[str]
    switches_up: frozenset[str]
    complaints: tuple[str, ...]
    now_s: float


class Queries:
    """The service as it is seen."""

    def __init__(self, writer: ServiceState) -> None:
        self.network, self.ledger = writer.network, writer.ledger
        self._writer, self._clock = writer, writer.clock
        self._book, self._fabric = writer.book, writer.fabric

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have this called with whatever happens, in the thread where it happens; it must not wait.

        What it returns ends it.
        """
        self._writer.listeners = (*self._writer.listeners, listener)

        def stop() -> None:
            self._writer.listeners = tuple(each for each in self._writer.listeners if each is not listener)

        return stop

    def reservation(self, reservation_id: str) -> Reservation:
        """The reservation of that id.

        Raises: NotFound.
        """
        return self._book.with_current_bounds(self._found(reservation_id))

    def reservations(self, state: State | None = None) -> list[Reservation]:
        """All that are live and the last KEPT_ENDED that are not, oldest first."""
        known = tuple(self._book.known.values())
        return [self._book.with_current_bounds(each) for each in known if state in (None, each.state)]

    def held_by(self, tenant: str, apart_from: str | None = None) -> Usage:
        """What a tenant holds, apart from one reservation."""
        held, known = self._book.tally.usage_of(tenant), self._book.known.get(apart_from or "")
        return held if known is None or known.tenant != tenant else held - usage_of(known)

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """What the switches have counted for it, and the switches that could not be read."""
        return self._fabric.verifier.counters(reservation) if reservation.state in INSTALLED else ([], [])

    def snapshot(self) -> Snapshot:
        """How the network stands now."""
        links = self._fabric.links
        facts = links.down, links.out_of_service, self._fabric.in_step(), tuple(links.wiring_problems())
        return Snapshot(self.network, self._book.bookings, *facts, self._clock())

    def lightpaths(self) -> list[LightpathState]:
        """The lightpaths now; none where the map is not optical."""
        return overview(self.network, self._book.bookings, self._book.live(), self._clock())

    def switches_up(self) -> int:
        """How many switches are connected and hold what they should."""
        return len(self._fabric.in_step())

    def consistency(self) -> tuple[SwitchReport, ...]:
        """What every switch holds against what it should; reads all of them."""
        return tuple(self._fabric.verify([switch.name for switch in self.network.switches], repair=False))

    @attach_offer
    def quote(self, asked: ReservationSpec) -> Admitted | Rejected:
        """What `reserve` would decide now; nothing is reserved."""
        with self._writer.lock:
            return self._writer.decide(request_of(asked, NOBODY))

    def quote_transfers(self, volumes: Sequence[Volume], instead_of: str | None = None) -> CommonQuote:
        """How fast these can go together with what is free now; nothing is reserved.

        `instead_of`: what this reservation takes counts as free, as for a change of it.

        Raises: UnknownHost, NoPath, NoCapacity.
        """
        bookings, down = self._book.bookings, self._fabric.links.down
        if instead_of is not None:
            bookings = bookings.without_reservation(instead_of)
        return shortest_common_transfer(self.network, bookings, volumes, self._clock(), down)

    def _found(self, reservation_id: str) -> Reservation:
        reservation = self._book.known.get(reservation_id) or self.ledger.find(reservation_id)
        if reservation is None:
            raise NotFound(f"There is no reservation {reservation_id}.")
        return reservation
