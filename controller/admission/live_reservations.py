"""An immutable index of the live reservations: 5-tuples, meters, and proven bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from immutables import Map

from controller.admission.carried_flows import carried_flow, is_carried_alike
from controller.admission.five_tuples import FiveTuple, HostPair, holders_of, with_ports, without_ports
from controller.admission.source_ports import Former, SourcePorts
from controller.booking.transfer_rate import completion_us
from controller.calculus.failure_bounds import CarriedFlow, FailureBounds, FlowKey
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Bound, Calibration
from controller.domain.network import Network
from controller.domain.reservation import FIRST_METER_ID, Flow, Placement, Reservation


class _BoundsMemo:
    """Bounds computed on demand for one index, which itself never changes."""

    __slots__ = ("bounds", "was_extended")

    def __init__(self, bounds: FailureBounds | None = None) -> None:
        self.bounds = bounds
        self.was_extended = False
        """Whether `bounds_with` has been answered once without computing `bounds`."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveReservations:
    """All live reservations of a network; a changed copy shares what is unchanged, bounds are computed on demand.

    The bounds in a reservation's placements are those of its own last decision; `with_current_bounds` updates them.
    """

    network: Network
    calibration: Calibration = DEFAULT_CALIBRATION
    _reservations: Map[str, Reservation] = field(default_factory=Map)
    _five_tuples: Map[FiveTuple, tuple[str, ...]] = field(default_factory=Map)
    """For every 5-tuple: the ids of the reservations that hold it."""
    _port_ranges: Map[HostPair, frozenset[FiveTuple]] = field(default_factory=Map)
    """Those of these 5-tuples that have a range of ports or any port."""
    _meters: Map[str, int] = field(default_factory=Map)
    """For every switch: the set of meters in use; bit i is meter FIRST_METER_ID + i."""
    _ports: SourcePorts | None = None
    """The ports of hosts, with the meters of all carried flows; None: no flow is carried."""
    grown: frozenset[str] = frozenset()
    """The reservations whose meters must grow on the switches (`with_meters_intended`)."""
    _analysed: FailureBounds | None = None
    """The last bounds computed for this index or one that it was derived from."""
    _changes: Map[FlowKey, CarriedFlow | None] = field(default_factory=Map)
    """Carried flows that differ from `_analysed`; None: no longer carried."""
    _former: Mapping[FlowKey, Former] = field(default_factory=dict)
    """The flows of the reservation that `without` has removed: if they come back as they were, so do their meters."""
    _memo: _BoundsMemo = field(default_factory=_BoundsMemo)
    _others: Mapping[str, LiveReservations] = field(default_factory=dict)
    """What `without` returns for a reservation (`with_others`)."""

    @staticmethod
    def of(
        network: Network, reservations: Iterable[Reservation], calibration: Calibration = DEFAULT_CALIBRATION
    ) -> LiveReservations:
        """Index those of these reservations that are live."""
        live = LiveReservations(network, calibration)
        for reservation in reservations:
            live = live.with_reservation(reservation)
        return live

    def __iter__(self) -> Iterator[Reservation]:
        """The reservations, oldest first."""
        return iter(
            sorted(
                self._reservations.values(), key=lambda reservation: (reservation.created_at_s, reservation.number)
            )
        )

    def get(self, reservation_id: str) -> Reservation | None:
        """The live reservation of that id."""
        return self._reservations.get(reservation_id)

    def with_reservation(self, reservation: Reservation) -> LiveReservations:
        """A copy with this reservation added or replaced, or removed if it is no longer live."""
        before = self._reservations.get(reservation.id)
        if before is not None and reservation.is_live and is_carried_alike(before, reservation):
            return self._with_same_flows(self._reservations.set(reservation.id, reservation))
        rest = self.without(reservation.id)
        if not reservation.is_live:
            return rest
        flows = {
            (reservation.id, placement.flow.name): carried_flow(reservation, placement)
            for placement in reservation.carried_placements
        }
        ports, metered = rest._source_ports.with_flows(flows, rest._former)
        analysed, changes = rest._changes_with(metered)
        tuples, meters, ranges = rest._five_tuples.mutate(), rest._meters.mutate(), rest._port_ranges
        for placement in reservation.placements:
            five_tuple = placement.flow.five_tuple
            tuples[five_tuple] = (*tuples.get(five_tuple, ()), reservation.id)
            if not placement.flow.match.is_exact:
                ranges = with_ports(ranges, five_tuple)
            switch = placement.path[1]
            meters[switch] = meters.get(switch, 0) | 1 << placement.meter_id - FIRST_METER_ID
        return LiveReservations(
            self.network,
            self.calibration,
            rest._reservations.set(reservation.id, reservation),
            tuples.finish(),
            ranges,
            meters.finish(),
            ports,
            rest._grown_by(metered, flows),
            analysed,
            changes,
        )

    def without(self, reservation_id: str) -> LiveReservations:
        """A copy without that reservation; the same index if it is not in it."""
        removed = self._reservations.get(reservation_id)
        if removed is None:
            return self
        if reservation_id in self._others:
            return self._others[reservation_id]
        analysed, since = self._known_bounds()
        changes, tuples, meters = since.mutate(), self._five_tuples.mutate(), self._meters.mutate()
        ranges = self._port_ranges
        for placement in removed.placements:
            key = removed.id, placement.flow.name
            if analysed is not None and key in analysed.carried_flows:
                changes[key] = None
            else:
                changes.pop(key, None)
            five_tuple, switch = placement.flow.five_tuple, placement.path[1]
            others = tuple(holder for holder in tuples[five_tuple] if holder != removed.id)
            if others:
                tuples[five_tuple] = others
            else:
                del tuples[five_tuple]
                if not placement.flow.match.is_exact:
                    ranges = without_ports(ranges, five_tuple)
            meters[switch] &= ~(1 << placement.meter_id - FIRST_METER_ID)
        keys = [(removed.id, placement.flow.name) for placement in removed.carried_placements]
        ports = self._source_ports.without(keys), self.grown
        index = self._reservations.delete(removed.id), tuples.finish(), ranges, meters.finish(), *ports
        former = self._source_ports.former(keys)
        return LiveReservations(self.network, self.calibration, *index, analysed, changes.finish(), former)

    def with_others(self, reservation_id: str, others: LiveReservations) -> LiveReservations:
        """A copy of which `without` that reservation is `others`: with the meters that a change of it will need."""
        return replace(self, _others={reservation_id: others}, _memo=_BoundsMemo(self._memo.bounds))

    def has_more_room_than(self, earlier: LiveReservations) -> bool:
        """Whether meters of flows that were known earlier have grown since, apart from reservations that changed."""
        return self._source_ports.has_more_room_than(earlier._source_ports)

    def with_draining(self, flows: Mapping[FlowKey, CarriedFlow]) -> LiveReservations:
        """A copy with flows that no reservation has any more, but whose packets may still be in the network."""
        ports, metered = self._source_ports.with_ended(flows)
        return self._with_changes(*self._changes_with(metered), ports, self._grown_by(metered, flows))

    def without_draining(self, keys: Iterable[FlowKey]) -> LiveReservations:
        """A copy without these flows of `with_draining`."""
        keys = list(keys)
        analysed, since = self._known_bounds()
        changes = since.mutate()
        for key in keys:
            if analysed is not None and key in analysed.carried_flows:
                changes[key] = None
            else:
                changes.pop(key, None)
        return self._with_changes(analysed, changes.finish(), self._source_ports.without(keys), self.grown)

    def with_meters_afresh(self) -> LiveReservations:
        """A copy in which every meter is as small as suffices; before it is known which ones switches have."""
        ports, metered = self._source_ports.afresh()
        return self._with_changes(*self._changes_with(metered), ports, self.grown)

    def with_meters_intended(self) -> LiveReservations:
        """A copy of which all meters are known to the switches' intended state."""
        known = self._analysed, self._changes, self._former, self._memo
        return LiveReservations(self.network, self.calibration, *self._index, self._ports, frozenset(), *known)

    def with_installed_meters(self, bursts: Mapping[FlowKey, int]) -> LiveReservations:
        """A copy with bursts of meters as switches have them already, where these suffice."""
        ports, metered = self._source_ports.with_installed(bursts)
        if not metered:
            return self
        return self._with_changes(*self._changes_with(metered), ports, self._grown_by(metered, {}))

    def meter_bursts(self, reservation_id: str) -> dict[str, int]:
        """The bursts of the meters of a reservation's flows that are carried, by flow; empty if it is not live."""
        bursts = {}
        reservation = self._reservations.get(reservation_id)
        for placement in reservation.carried_placements if reservation is not None else ():
            burst_bytes = self._source_ports.meter_burst_bytes((reservation_id, placement.flow.name))
            if burst_bytes is not None:
                bursts[placement.flow.name] = burst_bytes
        return bursts

    @property
    def _source_ports(self) -> SourcePorts:
        return SourcePorts(self.network, self.calibration) if self._ports is None else self._ports

    @property
    def _index(
        self,
    ) -> tuple[
        Map[str, Reservation], Map[FiveTuple, tuple[str, ...]], Map[HostPair, frozenset[FiveTuple]], Map[str, int]
    ]:
        return self._reservations, self._five_tuples, self._port_ranges, self._meters

    def _grown_by(self, metered: Iterable[FlowKey], own: Mapping[FlowKey, CarriedFlow]) -> frozenset[str]:
        """The reservations whose meters have not grown on the switches, with those that these changes concern."""
        names = [key[0] for key in metered if key not in own]
        return self.grown.union(names) if names else self.grown

    def _changes_with(
        self, flows: Mapping[FlowKey, CarriedFlow]
    ) -> tuple[FailureBounds | None, Map[FlowKey, CarriedFlow | None]]:
        """The latest bounds already computed, and the changes since then, these flows among them."""
        analysed, since = self._known_bounds()
        changes = since.mutate()
        carried = analysed.carried_flows if analysed else Map()
        for key, flow in flows.items():
            if carried.get(key) == flow:
                changes.pop(key, None)
            else:
                changes[key] = flow
        return analysed, changes.finish()

    def _with_changes(
        self,
        analysed: FailureBounds | None,
        changes: Map[FlowKey, CarriedFlow | None],
        ports: SourcePorts,
        grown: frozenset[str],
    ) -> LiveReservations:
        facts = *self._index, ports, grown, analysed, changes, self._former
        return LiveReservations(self.network, self.calibration, *facts)

    def _known_bounds(self) -> tuple[FailureBounds | None, Map[FlowKey, CarriedFlow | None]]:
        """The latest bounds already computed, and the changes since then."""
        known = self._memo.bounds
        return (self._analysed, self._changes) if known is None else (known, Map())

    def _with_same_flows(self, reservations: Map[str, Reservation]) -> LiveReservations:
        """A copy with these reservations, whose carried flows are the same."""
        index = reservations, self._five_tuples, self._port_ranges, self._meters, self._ports, self.grown
        known = self._analysed, self._changes, self._former, _BoundsMemo(self._memo.bounds)
        return LiveReservations(self.network, self.calibration, *index, *known)

    @property
    def bounds(self) -> FailureBounds:
        """The bounds of all carried flows; computed once.

        Raises: NoBound if no finite bound can be proven.
        """
        if not self._changes and self._analysed is not None:
            return self._analysed
        memo = self._memo
        if memo.bounds is None:
            memo.bounds = self._apply_changes({})
        return memo.bounds

    def bounds_with(self, added: Mapping[FlowKey, CarriedFlow], *, is_tight: bool = False) -> FailureBounds:
        """The bounds of all carried flows and of these besides, with the meters that they then have.

        `is_tight`: those of a new analysis. Raises: NoBound if no finite bound can be proven.
        """
        _, added = self._source_ports.with_flows(added, self._former)
        if is_tight:
            return self.bounds.tightened().changed(added)
        # Most indexes serve one decision only: its flows and the pending changes are then analysed in one step.
        memo = self._memo
        if self._changes and not memo.was_extended:
            memo.was_extended = True
            return self._apply_changes(added)
        return self.bounds.changed(added)

    def _apply_changes(self, added: Mapping[FlowKey, CarriedFlow]) -> FailureBounds:
        analysed = self._analysed or FailureBounds.empty(self.network, self.calibration)
        changes = sorted(self._changes.items(), key=lambda change: change[0])
        changed = {key: flow for key, flow in changes if flow is not None}
        return analysed.changed({**changed, **added}, [key for key, flow in changes if flow is None])

    def with_bounds(self, bounds: FailureBounds) -> LiveReservations:
        """A copy with these bounds, which may be of further flows too."""
        facts = *self._index, self._ports, self.grown, bounds, Map[FlowKey, CarriedFlow | None](), self._former
        return LiveReservations(self.network, self.calibration, *facts)

    def analysed_afresh(self) -> LiveReservations:
        """A copy with the bounds of an analysis from zero; independent of history, no bound is then larger.

        Raises: NoBound if no finite bound can be proven.
        """
        return self.with_bounds(self.bounds.analysed_afresh())

    def current_bounds(self, reservation: Reservation) -> dict[str, Bound]:
        """The current bounds of its flows that are carried, by name.

        Raises: NoBound if no finite bound can be proven.
        """
        bounds = self.bounds
        return {
            placement.flow.name: bounds.bound(key)
            for placement in reservation.carried_placements
            if (key := (reservation.id, placement.flow.name)) in bounds.carried_flows
        }

    def with_current_bounds(self, reservation: Reservation) -> Reservation:
        """The reservation with its current bounds; unchanged where its flows are not carried."""
        bounds = self.current_bounds(reservation)

        def updated(placement: Placement) -> Placement:
            bound = bounds.get(placement.flow.name)
            return placement if bound is None else with_bound(placement, bound)

        return replace(reservation, placements=tuple(updated(placement) for placement in reservation.placements))

    def flow(self, key: FlowKey) -> Flow:
        """The flow of that key."""
        return self.placement(key).flow

    def placement(self, key: FlowKey) -> Placement:
        """The placement of the flow of that key."""
        return next(p for p in self._reservations[key[0]].placements if p.flow.name == key[1])

    def holders(self, flow: Flow) -> list[Reservation]:
        """The reservations that hold packets of the flow's 5-tuple at any time."""
        five_tuple = flow.five_tuple
        names = self._five_tuples.get(five_tuple, ())
        if not flow.match.is_exact:  # every 5-tuple is compared, so that exact ones need no index by host pair
            names = holders_of(self._five_tuples, five_tuple, self._five_tuples)
        elif self._port_ranges:
            names = (*names, *holders_of(self._five_tuples, five_tuple, self._port_ranges.get(five_tuple[:3], ())))
        return [self._reservations[name] for name in names]

    def free_meters(self, switch: str) -> Iterator[int]:
        """The meter ids that no reservation uses on a switch, lowest first."""
        used = self._meters.get(switch, 0)
        while True:
            lowest = ~used & (used + 1)
            used |= lowest
            yield FIRST_METER_ID + lowest.bit_length() - 1


def with_bound(placement: Placement, bound: Bound) -> Placement:
    """The placement with this bound."""
    return replace(
        placement,
        accumulated_latency_us=bound.accumulated_latency_us,
        latency_variation_us=bound.latency_variation_us,
        completion_us=completion_us(
            placement.flow.requirement, placement.reserved_bps, bound.accumulated_latency_us
        ),
    )


def as_live_reservations(
    network: Network, live: Sequence[Reservation] | LiveReservations, calibration: Calibration
) -> LiveReservations:
    """The reservations as an index; an index is returned as it is."""
    return live if isinstance(live, LiveReservations) else LiveReservations.of(network, live, calibration)
