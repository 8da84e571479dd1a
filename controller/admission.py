"""Admission: may these flows be promised, and how? All of a request's flows or none.

Three promises are kept at once: capacity on every link, the bound of each new flow, and the limits that earlier flows
were promised. A modification sees its own capacity as free and keeps its paths where it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from controller.assignment import PathSearch, held_placement, metered_bps, metered_burst_bytes
from controller.bookings import Booking, Bookings
from controller.bounds import DEFAULT_CALIBRATION, Bound, Calibration, NoBound, ShapedFlow, bounds_of
from controller.errors import FlowInUse, LatencyNotMet, Refused, UnknownHost
from controller.network import Network
from controller.paths import Path
from controller.reservation import FIRST_METER_ID, Flow, Placement, Reservation

BOUND_CHECKS = 32
"""Complete assignments whose bounds are worked out before the latency counts as not met."""

FlowKey = tuple[str, str]
"""(reservation id, flow name)."""


@dataclass(frozen=True, slots=True)
class Request:
    """Flows for the reservation of that id; if a standing one has it, this is its modification.

    Wanted during [start_s, end_s); a start of None is now.
    """

    reservation_id: str
    version: int
    flows: tuple[Flow, ...]
    start_s: float | None = None
    end_s: float = inf


@dataclass(frozen=True, slots=True)
class Admitted:
    """The placements in the order asked, the calendar with them in it, and everybody else's bounds under them."""

    placements: tuple[Placement, ...]
    bookings: Bookings
    standing: tuple[Reservation, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why not, as the error to answer with."""

    error: Refused | UnknownHost


def decide(
    network: Network,
    bookings: Bookings,
    standing: Sequence[Reservation],
    request: Request,
    now_s: float,
    down: frozenset[str] = frozenset(),
    calibration: Calibration = DEFAULT_CALIBRATION,
) -> Admitted | Rejected:
    """Place every flow of the request, or say what is in the way. `standing`: all live reservations."""
    replaced = next((r for r in standing if r.id == request.reservation_id), None)
    others = tuple(r for r in standing if r.id != request.reservation_id)
    free = bookings.without(request.reservation_id)
    try:
        _check_ends(network, request.flows)
        _check_five_tuples(request.flows, others)
        search = PathSearch(network, free, request.flows, replaced, now_s, down)
        paths, bounds = _first_within_limits(network, search, request, others, calibration)
    except (Refused, UnknownHost) as error:
        return Rejected(error)
    placements = _placements(network, request, paths, bounds, replaced, others)
    booked = bookings_of(request.reservation_id, placements, now_s)
    return Admitted(placements, free.adding(booked), tuple(_with_bounds(r, bounds) for r in others))


def bookings_of(reservation_id: str, placements: Sequence[Placement], start_s: float) -> list[Booking]:
    """What these placements take in the calendar, until they are released."""
    return [
        Booking(reservation_id, placement.flow.name, link, placement.reserved_bps, start_s)
        for placement in placements
        for link in placement.link_names
    ]


def _check_ends(network: Network, flows: Sequence[Flow]) -> None:
    hosts = [host.name for host in network.hosts]
    for flow in flows:
        for end in (flow.source, flow.destination):
            if end not in hosts:
                sentence = f"{flow.name}: there is no host {end!r} on map {network.name}; its hosts are "
                raise UnknownHost(sentence + ", ".join(hosts) + ".", flow=flow.name, host=end)


def _check_five_tuples(flows: Sequence[Flow], others: Sequence[Reservation]) -> None:
    taken = {p.flow.five_tuple: reservation.id for reservation in others for p in reservation.placements}
    for flow in flows:
        holder = taken.get(flow.five_tuple)
        if holder is not None:
            match = flow.match
            ends = f"{flow.source}:{match.source_port} to {flow.destination}:{match.destination_port}"
            sentence = f"{flow.name}: {match.protocol} from {ends} is already reserved by {holder}."
            raise FlowInUse(sentence, flow=flow.name, reservation=holder)


def _first_within_limits(
    network: Network,
    search: PathSearch,
    request: Request,
    others: Sequence[Reservation],
    calibration: Calibration,
) -> tuple[Mapping[str, Path], Mapping[FlowKey, Bound]]:
    """The first assignment in which every flow, new or standing, stays within its limits.

    Raises: NoCapacity if none fits, LatencyNotMet with the first assignment's reason if none stays within.
    """
    late: LatencyNotMet | None = None
    for tried, paths in enumerate(search.assignments()):
        if tried == BOUND_CHECKS:
            break
        limits = {(request.reservation_id, flow.name): flow for flow in request.flows}
        shaped = {key: _shaped(network, flow, paths[flow.name]) for key, flow in limits.items()}
        for reservation in others:
            for p in reservation.placements:
                key = (reservation.id, p.flow.name)
                limits[key] = p.flow
                shaped[key] = ShapedFlow(p.path, p.reserved_bps, p.burst_bytes)
        try:
            bounds = bounds_of(network, shaped, calibration)
        except NoBound as unbounded:
            late = late or _unbounded(request, unbounded)
            continue
        broken = _first_broken(limits, bounds, request.reservation_id)
        if broken is None:
            return paths, bounds
        late = late or broken
    raise late or search.no_capacity()


def _shaped(network: Network, flow: Flow, path: Path) -> ShapedFlow:
    return ShapedFlow(path, metered_bps(flow), metered_burst_bytes(flow, network))


def _unbounded(request: Request, unbounded: NoBound) -> LatencyNotMet:
    flow = request.flows[0].name
    sentence = f"{flow}: no finite latency can be proven; the analysis does not settle at {unbounded.link}."
    return LatencyNotMet(sentence, flow=flow, link=unbounded.link, bound_us=None, limit_us=None)


def _first_broken(
    limits: Mapping[FlowKey, Flow], bounds: Mapping[FlowKey, Bound], own_id: str
) -> LatencyNotMet | None:
    for (reservation_id, name), flow in limits.items():
        bound = bounds[reservation_id, name]
        checks = (
            ("latency", bound.accumulated_latency_us, flow.requirement.max_latency_us),
            ("latency variation", bound.latency_variation_us, flow.requirement.max_latency_variation_us),
        )
        for word, bound_us, limit_us in checks:
            if limit_us is not None and bound_us > limit_us:
                whose = name if reservation_id == own_id else f"{name} of standing reservation {reservation_id}"
                sentence = f"{whose}: the proven {word} would be {bound_us:.0f} us; its limit is {limit_us:.0f} us."
                facts = {"flow": name, "reservation": reservation_id, "promise": word.replace(" ", "_")}
                return LatencyNotMet(sentence, **facts, bound_us=round(bound_us, 1), limit_us=limit_us)
    return None


def _placements(
    network: Network,
    request: Request,
    paths: Mapping[str, Path],
    bounds: Mapping[FlowKey, Bound],
    replaced: Reservation | None,
    others: Sequence[Reservation],
) -> tuple[Placement, ...]:
    everyone = [p for reservation in (*others, *([replaced] if replaced else [])) for p in reservation.placements]
    taken = {(p.switches[0], p.meter_id) for p in everyone}
    placements = []
    for flow in request.flows:
        path, bound = paths[flow.name], bounds[request.reservation_id, flow.name]
        held = held_placement(replaced, flow)
        if held and held.switches[0] == path[1]:
            meter_id = held.meter_id
        else:
            meter_id = FIRST_METER_ID
            while (path[1], meter_id) in taken:
                meter_id += 1
            taken.add((path[1], meter_id))
        rate_bps, burst_bytes = metered_bps(flow), metered_burst_bytes(flow, network)
        unchanged = held and (held.path, held.reserved_bps, held.burst_bytes) == (path, rate_bps, burst_bytes)
        version = held.version if held and unchanged else request.version
        latency = (bound.accumulated_latency_us, bound.latency_variation_us)
        placements.append(Placement(flow, path, rate_bps, burst_bytes, meter_id, version, *latency))
    return tuple(placements)


def _with_bounds(reservation: Reservation, bounds: Mapping[FlowKey, Bound]) -> Reservation:
    """The same reservation with its bounds as they are now."""

    def fresh(placement: Placement) -> Placement:
        bound = bounds[reservation.id, placement.flow.name]
        return replace(
            placement,
            accumulated_latency_us=bound.accumulated_latency_us,
            latency_variation_us=bound.latency_variation_us,
        )

    return replace(reservation, placements=tuple(fresh(p) for p in reservation.placements))
