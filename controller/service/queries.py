"""Read access to the service: reservations, quotes, network state, event subscription.

`counters`, `link_counters`, `fragments`, `consistency` and `check_switch` read switches, `quote` takes the lock of
ServiceState, and so do `reservation` and `reservations` where a bound must be told anew, for at most a second; all
others never block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from controller.admission.admission import Admitted, Rejected
from controller.admission.counter_offer import attach_offer
from controller.booking.calendar import Calendar
from controller.clock import ClockStep
from controller.dataplane.southbound import MeterCounter
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.dataplane.switch_check import Check, Place, check_switch, switch_named
from controller.domain.events import SwitchReport
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.errors import NotFound, Refused
from controller.optical.inventory import LightpathState, lightpath_inventory
from controller.routing.coflow import CoflowQuote, Volume, shortest_coflow_completion
from controller.security.tenant_usage import Usage, usage_of
from controller.service.bound_updates import BoundUpdates
from controller.service.ledger_writer import LedgerStatus
from controller.service.requests import ReservationSpec, request_of
from controller.service.reservation_ids import UNASSIGNED_ID
from controller.service.state import INSTALLED, Listener, ServiceState
from controller.switches.counter_reader import SwitchCounters
from controller.switches.fragment_counts import FragmentCount
from controller.switches.link_counters import LinkCounters
from controller.switches.meter_totals import EndedMeter

PageKey = tuple[float, str]
"""When a reservation was made (Unix time), and its id: the order of pages."""


def _page_key(reservation: Reservation) -> PageKey:
    return reservation.created_at_s, reservation.id


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the network at one moment."""

    network: Network
    calendar: Calendar
    down: frozenset[str]
    closed: frozenset[str]
    switches_up: frozenset[str]
    complaints: tuple[str, ...]
    now_s: float


class Queries:
    """Queries that clients of the service may make. Thread-safe."""

    def __init__(self, state: ServiceState, bound_updates: BoundUpdates) -> None:
        self._bound_updates = bound_updates
        self.network = state.network
        self._state, self._store, self._switches = state, state.store, state.switches

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event, in the thread of the event; it must not block.

        The function returned ends the subscription.
        """
        self._state.listeners = (*self._state.listeners, listener)

        def unsubscribe() -> None:
            self._state.listeners = tuple(each for each in self._state.listeners if each is not listener)

        return unsubscribe

    def reservation(self, reservation_id: str) -> Reservation:
        """The reservation with that id; bounds that no longer hold are told anew first.

        Raises: NotFound.
        """
        return self._bound_updates.told([self.stored(reservation_id)])[0]

    def stored(self, reservation_id: str) -> Reservation:
        """The reservation with that id as it was published last.

        Raises: NotFound.
        """
        reservation = self._store.published.get(reservation_id) or self._state.ledger.find(reservation_id)
        if reservation is None:
            raise NotFound(f"There is no reservation {reservation_id}.")
        return reservation

    def reservations(self, state: State | None = None) -> list[Reservation]:
        """All live reservations and the last KEPT_ENDED that have ended, oldest first; bounds as in `reservation`."""
        return self._bound_updates.told([each for each in self.published() if state in (None, each.state)])

    def page(
        self, state: State | None, is_visible: Callable[[str], bool], limit: int, after: PageKey | None
    ) -> tuple[list[Reservation], PageKey | None]:
        """The first `limit` of `reservations` of visible tenants after a key; the key of the last if more follow."""
        found = [each for each in self.published() if state in (None, each.state) and is_visible(each.tenant)]
        found.sort(key=_page_key)
        first = 0 if after is None else bisect_right(found, after, key=_page_key)
        page = found[first : first + limit]
        has_more = first + limit < len(found)
        return self._bound_updates.told(page), _page_key(page[-1]) if has_more else None

    def published(self) -> tuple[Reservation, ...]:
        """All live reservations and the last KEPT_ENDED that have ended, as they were published last."""
        return tuple(self._store.published.values())

    def usage_of(self, tenant: str, apart_from: str | None = None) -> Usage:
        """What a tenant's reservations use, apart from one reservation."""
        usage, excluded = self._store.usage.usage_of(tenant), self._store.published.get(apart_from or "")
        return usage if excluded is None or excluded.tenant != tenant else usage - usage_of(excluded)

    def counters(self, reservation: Reservation) -> tuple[list[SwitchCounters], list[str]]:
        """The counters of a reservation by switch, and the switches that could not be read."""
        return self._switches.counters.of_reservation(reservation) if reservation.state in INSTALLED else ([], [])

    def meters(self, reservation: Reservation) -> dict[str, list[MeterCounter]]:
        """The counters of a reservation's meters by switch, without those that could not be read."""
        return self._switches.counters.meters(reservation) if reservation.state in INSTALLED else {}

    def link_counters(self) -> LinkCounters:
        """What every link has carried, read from all switches."""
        return self._switches.link_counters.read()

    def pop_ended_meters(self) -> list[EndedMeter]:
        """The meters with drops of flows that have ended since the last call."""
        return self._switches.counters.pop_ended()

    def fragments(self, switches: Iterable[str]) -> list[FragmentCount]:
        """The fragments counted at these switches, as far as they can be read."""
        return self._switches.counters.fragments(switches)

    def snapshot(self) -> Snapshot:
        """The current state of the network."""
        links = self._switches.links
        conditions = links.down, links.out_of_service, self._switches.in_step(), tuple(links.wiring_problems())
        return Snapshot(self.network, self._store.calendar, *conditions, self._state.clock())

    def lightpaths(self) -> list[LightpathState]:
        """The current lightpaths; none if the map is not optical."""
        return lightpath_inventory(
            self.network, self._store.calendar, self._store.published_live(), self._state.clock()
        )

    def switches_up(self) -> int:
        """The number of switches that are connected and in step."""
        return len(self._switches.in_step())

    def ledger_status(self) -> LedgerStatus:
        """Whether the ledger can be written, and how many changes it does not have yet."""
        return self._state.writer.status

    def last_clock_step(self) -> ClockStep | None:
        """The last step of the wall clock since the start."""
        return self._state.clock.last_step

    def consistency(self) -> tuple[SwitchReport, ...]:
        """Installed against intended entries of every switch; reads all switches."""
        return tuple(self._switches.verify([switch.name for switch in self.network.switches], repair=False))

    def check_switch(self, switch: str) -> tuple[str, SwitchCapabilities, list[Check]]:
        """What a switch, by its name or datapath id, says it can do, and what of it would not hold; reads it.

        Raises: NotFound, SwitchDown, SwitchTimeout.
        """
        name = switch_named(self.network, switch)
        said = self._switches.capabilities(name)
        return name, said, check_switch(said, Place(self.network, name))

    @attach_offer
    def quote(self, spec: ReservationSpec) -> Admitted | Rejected:
        """The decision that a reservation request would get now; nothing is reserved.

        Like a reservation request, it waits for flows that have ended where it is refused beside them.
        """
        request = request_of(spec, UNASSIGNED_ID)
        with self._state.lock:
            decision = self._state.decide(request)
        if isinstance(decision, Rejected) and isinstance(decision.error, Refused) and self._state.wait_until_drained():
            with self._state.lock:
                return self._state.decide(request)
        return decision

    def quote_transfers(self, volumes: Sequence[Volume], instead_of: str | None = None) -> CoflowQuote:
        """The shortest common completion time of these volumes in the free capacity; nothing is reserved.

        `instead_of`: id of a reservation whose capacity counts as free, as for a change of it.

        Raises: UnknownHost, NoPath, NoCapacity.
        """
        calendar, down = self._store.calendar, self._switches.links.down
        if instead_of is not None:
            calendar = calendar.without_reservation(instead_of)
        return shortest_coflow_completion(self.network, calendar, volumes, self._state.clock(), down)
