"""The live reservations and what admission must know of them at once: 5-tuples, meters, promises. Immutable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

from immutables import Map

from controller.admission.latency_limits import has_limit
from controller.booking.transfer_rate import completion_us
from controller.calculus.failure_bounds import CarriedFlow, FailureBounds, FlowKey
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Bound, Calibration
from controller.domain.network import Network
from controller.domain.reservation import FIRST_METER_ID, Flow, Placement, Reservation

FiveTuple = tuple[str, str, str, int, int]


@dataclass(eq=False)
class LiveReservations:
    """All live reservations of a network; a change shares what it keeps, and bounds are worked out when asked for.

    The bounds in a reservation's placements are those of its own last decision; `told_anew` has those of now.
    """

    network: Network
    calibration: Calibration = DEFAULT_CALIBRATION
    _reservations: Map[str, Reservation] = field(default_factory=Map)
    _five_tuples: Map[FiveTuple, tuple[str, ...]] = field(default_factory=Map)
    _meters: Map[str, int] = field(default_factory=Map)
    """For every switch: the set of the meters that are taken; bit i is meter FIRST_METER_ID + i."""
    _last: FailureBounds | None = None
    _changes: Map[FlowKey, CarriedFlow | None] = field(default_factory=Map)
    """Since `_last`; None: no longer carried."""
    _was_asked: bool = False

    @staticmethod
    def of(
        network: Network, reservations: Iterable[Reservation], calibration: Calibration = DEFAULT_CALIBRATION
    ) -> LiveReservations:
        """These reservations, those that are live."""
        standing = LiveReservations(network, calibration)
        for reservation in reservations:
            standing = standing.with_reservation(reservation)
        return standing

    def __iter__(self) -> Iterator[Reservation]:
        """The reservations, oldest first."""
        return iter(sorted(self._reservations.values(), key=lambda each: (each.created_at_s, each.number)))

    def get(self, reservation_id: str) -> Reservation | None:
        """The live reservation of that id."""
        return self._reservations.get(reservation_id)

    def with_reservation(self, reservation: Reservation) -> LiveReservations:
        """With this reservation as it is now, in place of what it was; without it if it is no longer live."""
        before = self._reservations.get(reservation.id)
        if before is not None and reservation.is_live and _is_carried_alike(before, reservation):
            return self._with(self._reservations.set(reservation.id, reservation))
        rest = self.without(reservation.id)
        if not reservation.is_live:
            return rest
        last, since = rest._worked_out()
        changes = since.mutate()
        analysed = last.carried if last else Map()
        for placement in reservation.carried:
            key, flow = (reservation.id, placement.flow.name), carried_of(reservation, placement)
            if analysed.get(key) == flow:
                changes.pop(key, None)
            else:
                changes[key] = flow
        tuples, meters = rest._five_tuples.mutate(), rest._meters.mutate()
        for placement in reservation.placements:
            five_tuple = placement.flow.five_tuple
            tuples[five_tuple] = (*tuples.get(five_tuple, ()), reservation.id)
            first = placement.path[1]
            meters[first] = meters.get(first, 0) | 1 << placement.meter_id - FIRST_METER_ID
        return LiveReservations(
            self.network,
            self.calibration,
            rest._reservations.set(reservation.id, reservation),
            tuples.finish(),
            meters.finish(),
            last,
            changes.finish(),
        )

    def without(self, reservation_id: str) -> LiveReservations:
        """Without that reservation, if it was here."""
        gone = self._reservations.get(reservation_id)
        if gone is None:
            return self
        last, since = self._worked_out()
        changes, tuples, meters = since.mutate(), self._five_tuples.mutate(), self._meters.mutate()
        for placement in gone.placements:
            key = gone.id, placement.flow.name
            if last is not None and key in last.carried:
                changes[key] = None
            else:
                changes.pop(key, None)
            five_tuple, first = placement.flow.five_tuple, placement.path[1]
            others = tuple(each for each in tuples[five_tuple] if each != gone.id)
            if others:
                tuples[five_tuple] = others
            else:
                del tuples[five_tuple]
            meters[first] &= ~(1 << placement.meter_id - FIRST_METER_ID)
        facts = self._reservations.delete(gone.id), tuples.finish(), meters.finish(), last, changes.finish()
        return LiveReservations(self.network, self.calibration, *facts)

    def _worked_out(self) -> tuple[FailureBounds | None, Map[FlowKey, CarriedFlow | None]]:
        """The promises that are known, and what has changed since: what was worked out once is not worked out again."""
        known: FailureBounds | None = self.__dict__.get("promises")
        return (self._last, self._changes) if known is None else (known, Map())

    def _with(self, reservations: Map[str, Reservation]) -> LiveReservations:
        """The same with these, which are carried alike."""
        facts = reservations, self._five_tuples, self._meters, self._last, self._changes
        following = LiveReservations(self.network, self.calibration, *facts)
        if "promises" in self.__dict__:
            following.__dict__["promises"] = self.promises
        return following

    @cached_property
    def promises(self) -> FailureBounds:
        """The bounds of everything carried.

        Raises: NoBound if nothing finite can be proven.
        """
        if not self._changes and self._last is not None:
            return self._last
        return self._changed({})

    def promises_with(self, added: Mapping[FlowKey, CarriedFlow]) -> FailureBounds:
        """The bounds of everything carried, and of these besides.

        Raises: NoBound if nothing finite can be proven.
        """
        # Mostly there is one question between two changes: what has changed is then worked out along with it.
        if self._changes and not self._was_asked:
            self._was_asked = True
            return self._changed(added)
        return self.promises.changed(added)

    def _changed(self, added: Mapping[FlowKey, CarriedFlow]) -> FailureBounds:
        last = self._last or FailureBounds.none(self.network, self.calibration)
        changes = sorted(self._changes.items(), key=lambda change: change[0])
        present = {key: flow for key, flow in changes if flow is not None}
        return last.changed({**present, **added}, [key for key, flow in changes if flow is None])

    def with_bounds(self, promises: FailureBounds) -> LiveReservations:
        """The same reservations under promises in which more may be carried."""
        facts = self._reservations, self._five_tuples, self._meters, promises
        return LiveReservations(self.network, self.calibration, *facts)

    def with_current_bounds(self, reservation: Reservation) -> Reservation:
        """A reservation with its bounds as they are now; as it is where it does not count."""
        bounds = {
            key: self.promises.bound(key)
            for placement in reservation.carried
            if (key := (reservation.id, placement.flow.name)) in self.promises.carried
        }

        def told(placement: Placement) -> Placement:
            bound = bounds.get((reservation.id, placement.flow.name))
            return placement if bound is None else with_bound(placement, bound)

        return replace(reservation, placements=tuple(told(placement) for placement in reservation.placements))

    def flow(self, key: FlowKey) -> Flow:
        """The flow of that key."""
        return next(p.flow for p in self._reservations[key[0]].placements if p.flow.name == key[1])

    def holders(self, flow: Flow) -> list[Reservation]:
        """The reservations that hold the flow's 5-tuple, now or later."""
        return [self._reservations[name] for name in self._five_tuples.get(flow.five_tuple, ())]

    def free_meters(self, switch: str) -> Iterator[int]:
        """The meter ids that no reservation has on a switch, the lowest first."""
        taken = self._meters.get(switch, 0)
        while True:
            lowest = ~taken & (taken + 1)
            taken |= lowest
            yield FIRST_METER_ID + lowest.bit_length() - 1


def _is_carried_alike(one: Reservation, other: Reservation) -> bool:
    """Whether nothing that counts here tells them apart."""
    times = one.created_at_s, one.start_at_s, one.end_at_s
    return one.placements is other.placements and times == (other.created_at_s, other.start_at_s, other.end_at_s)


def carried_of(reservation: Reservation, placement: Placement) -> CarriedFlow:
    """How the network carries one flow of a reservation."""
    end_s = inf if reservation.end_at_s is None else reservation.end_at_s
    start_s = reservation.start_at_s if reservation.start_at_s > reservation.created_at_s else -inf
    size = placement.reserved_bps, placement.burst_bytes
    limit = has_limit(placement.flow.requirement)
    return CarriedFlow.during(placement.route, size, start_s, end_s, placement.window, limit)


def with_bound(placement: Placement, bound: Bound) -> Placement:
    """The same placement with this bound."""
    return replace(
        placement,
        accumulated_latency_us=bound.accumulated_latency_us,
        latency_variation_us=bound.latency_variation_us,
        completion_us=completion_us(
            placement.flow.requirement, placement.reserved_bps, bound.accumulated_latency_us
        ),
    )


def as_live_reservation(
    network: Network, standing: Sequence[Reservation] | LiveReservations, calibration: Calibration
) -> LiveReservations:
    """The same in the form that knows more."""
    return standing if isinstance(standing, LiveReservations) else LiveReservations.of(network, standing, calibration)
