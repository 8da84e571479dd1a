"""Domain objects -> response bodies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from controller.admission.latency_limits import effective_limits_us
from controller.api.schemas.network_responses import (
    AuditBody,
    AuditEntry,
    Consistency,
    LinkBody,
    NetworkBody,
    NodeBody,
    PathBody,
    PathsBody,
    SwitchConsistency,
)
from controller.api.schemas.requests import MatchBody
from controller.api.schemas.requirements import RateRequirement, RequirementBody, TransferRequirement
from controller.api.schemas.reservation_responses import (
    Counters,
    EntryCounters,
    FragmentCounters,
    MeterCounters,
    PathLink,
    PlacedFlow,
    ReservationBody,
    WindowBody,
)
from controller.dataplane.entries import EntryKey, cookie_of
from controller.dataplane.fragment_entries import fragment_entry, max_datagram_bytes
from controller.dataplane.pipeline import reserved_entries
from controller.domain.events import SwitchReport
from controller.domain.network import DirectedLink, Network, Node
from controller.domain.path import Path
from controller.domain.ports import PortRange, Ports
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, Window
from controller.routing.candidates import candidate_paths
from controller.routing.partition import separating_spans
from controller.security.audit import AuditRecord
from controller.service.queries import Snapshot
from controller.switches.counter_reader import SwitchCounters


def reservation_body(reservation: Reservation, mtu_bytes: int) -> ReservationBody:
    """The body of a reservation on a network of this MTU."""
    return ReservationBody(
        id=reservation.id,
        version=reservation.version,
        state=reservation.state,
        owner=reservation.owner,
        tenant=reservation.tenant,
        lease_s=reservation.lease_s,
        created_at=utc_time(reservation.created_at_s),
        expires_at=utc_time(reservation.expires_at_s),
        start_at=utc_time(reservation.start_at_s or reservation.created_at_s),
        end_at=None if reservation.end_at_s is None else utc_time(reservation.end_at_s),
        reason=reservation.reason,
        flows=[placed_flow(placement, mtu_bytes) for placement in reservation.placements],
    )


def utc_time(at_s: float) -> datetime:
    """Seconds since the epoch as a UTC time."""
    return datetime.fromtimestamp(at_s, UTC)


def flow_json(flow: Flow) -> dict[str, object]:
    """A flow in the form of a request."""
    head = {"name": flow.name, "source": flow.source, "destination": flow.destination}
    match, requirement = _match_body(flow.match), requirement_body(flow.requirement)
    return head | {"match": match.model_dump(), "requirement": requirement.model_dump(exclude_defaults=True)}


def _match_body(match: Match) -> MatchBody:
    ports = _ports(match.source_port), _ports(match.destination_port)
    return MatchBody.model_construct(protocol=match.protocol, source_port=ports[0], destination_port=ports[1])


def _ports(ports: Ports) -> int | str | None:
    return str(ports) if isinstance(ports, PortRange) else ports


_FIELDS = {form: tuple(form.model_fields) for form in (RateRequirement, TransferRequirement)}


def requirement_body(requirement: Requirement) -> RequirementBody:
    """The body of a requirement."""
    form = RateRequirement if requirement.transfer_bytes is None else TransferRequirement
    return form.model_construct(**{name: getattr(requirement, name) for name in _FIELDS[form]})


def placed_flow(placement: Placement, mtu_bytes: int) -> PlacedFlow:
    """The body of an admitted flow on a network of this MTU."""
    flow, window = placement.flow, placement.window
    completion_us, backup = placement.completion_us, placement.backup_path
    latency_limit_us, variation_limit_us = effective_limits_us(placement)
    return PlacedFlow(
        name=flow.name,
        source=flow.source,
        destination=flow.destination,
        match=_match_body(flow.match),
        requirement=requirement_body(flow.requirement),
        path=list(placement.path),
        reserved_bps=placement.reserved_bps,
        burst_bytes=placement.burst_bytes,
        accumulated_latency_us=round(placement.accumulated_latency_us, 1),
        latency_variation_us=round(placement.latency_variation_us, 1),
        latency_limit_us=None if latency_limit_us is None else round(latency_limit_us, 1),
        latency_variation_limit_us=None if variation_limit_us is None else round(variation_limit_us, 1),
        completion_ms=None if completion_us is None else round(completion_us / 1000, 4),
        window=None if window is None else _window_body(window),
        backup_path=None if backup is None else list(backup),
        suspended=placement.suspended,
        lightpaths=[lightpath.id for lightpath in placement.lightpaths],
        backup_lightpaths=[lightpath.id for lightpath in placement.backup_lightpaths],
        max_datagram_bytes=max_datagram_bytes(mtu_bytes, flow),
    )


def _window_body(window: Window) -> WindowBody:
    return WindowBody(
        period_ms=window.period_us / 1000, offset_ms=window.offset_us / 1000, length_ms=window.length_us / 1000
    )


def consistency_body(reports: Sequence[SwitchReport]) -> Consistency:
    """The body of a comparison of switches with the intended state."""
    switches = [
        SwitchConsistency(
            switch=report.switch,
            state=report.sync_state,
            missing=list(report.missing),
            wrong=list(report.wrong),
            foreign=list(report.foreign),
        )
        for report in reports
    ]
    return Consistency(consistent=all(report.is_consistent for report in reports), switches=switches)


def audit_body(entries: Sequence[tuple[int, AuditRecord]], after: int) -> AuditBody:
    """The body of a part of the audit log."""
    bodies = [
        AuditEntry(
            number=number,
            at=utc_time(entry.at_s),
            tenant=entry.tenant,
            token=entry.token,
            client=entry.client,
            method=entry.method,
            path=entry.path,
            status=entry.status,
            code=entry.code,
            reservation=entry.reservation,
            request=entry.request,
        )
        for number, entry in entries
    ]
    return AuditBody(entries=bodies, last=entries[-1][0] if entries else after)


def counters_body(
    network: Network, reservation: Reservation, read: Sequence[SwitchCounters], unavailable: list[str]
) -> Counters:
    """The body of counters, each with the flow it belongs to."""
    flow_of_meter = {(p.switches[0], p.meter_id): p.flow.name for p in reservation.placements}
    flow_of_entry = {
        (switch, entry.key): placement.flow.name
        for placement in reservation.placements
        for switch, entry in reserved_entries(network, placement, cookie_of(reservation.number, placement.version))
    }
    meters = [
        MeterCounters(
            switch=counters.switch,
            meter_id=meter.entry.meter_id,
            flow=flow_of_meter[counters.switch, meter.entry.meter_id],
            rate_kbps=meter.entry.rate_kbps,
            burst_kbit=meter.entry.burst_kbit,
            packets=meter.packets,
            bytes=meter.bytes,
            dropped_packets=meter.dropped_packets,
            dropped_bytes=meter.dropped_bytes,
        )
        for counters in read
        for meter in counters.meters
    ]
    entries = [
        EntryCounters(
            switch=counters.switch,
            table=flow.entry.table,
            priority=flow.entry.priority,
            match={name: list(value) if isinstance(value, tuple) else value for name, value in flow.entry.match},
            flow=flow_of_entry.get((counters.switch, flow.entry.key)),
            cookie=f"0x{flow.entry.cookie:016x}",
            packets=flow.packets,
            bytes=flow.bytes,
        )
        for counters in read
        for flow in counters.flows
    ]
    return Counters(
        meters=meters, entries=entries, fragments=_fragments(network, reservation, read), unavailable=unavailable
    )


def _fragments(network: Network, reservation: Reservation, read: Sequence[SwitchCounters]) -> list[FragmentCounters]:
    flows: dict[tuple[str, EntryKey], list[Flow]] = {}
    for placement in reservation.carried_placements:
        switch, entry = fragment_entry(network, placement)
        flows.setdefault((switch, entry.key), []).append(placement.flow)
    return [
        FragmentCounters(
            switch=count.switch,
            source=flow.source,
            destination=flow.destination,
            protocol=flow.match.protocol,
            flows=[flow.name for flow in flows[count.switch, count.key]],
            packets=count.packets,
            bytes=count.bytes,
        )
        for counters in read
        for count in counters.fragments
        for flow in flows[count.switch, count.key][:1]
    ]


def network_body(snapshot: Snapshot, propagation_emulated: bool) -> NetworkBody:
    """The body of the network."""
    network = snapshot.network
    return NetworkBody(
        map=network.name,
        scale_mbps_per_gbps=network.scale_mbps_per_gbps,
        mtu_bytes=network.mtu_bytes,
        propagation_emulated=propagation_emulated,
        ats=network.is_regulated,
        nodes=[_node_body(node, snapshot) for node in network.nodes.values()],
        links=[_link_body(link, snapshot) for link in network.links.values()],
        complaints=list(snapshot.complaints),
    )


def _node_body(node: Node, snapshot: Snapshot) -> NodeBody:
    if node.is_switch:
        return NodeBody(
            name=node.name, kind=node.kind, up=node.name in snapshot.switches_up, position_km=node.position_km
        )
    up = any(link.name not in snapshot.down for link in snapshot.network.links_from(node.name))
    return NodeBody(name=node.name, kind=node.kind, up=up, ip=node.ip, position_km=node.position_km)


def _link_body(link: DirectedLink, snapshot: Snapshot) -> LinkBody:
    reserved_bps = snapshot.calendar.reserved_bps(link.name, snapshot.now_s)
    return LinkBody(
        link=link.name,
        source=link.source,
        destination=link.destination,
        length_km=link.length_km,
        duct=link.duct,
        in_service=link.span not in snapshot.closed,
        up=link.name not in snapshot.down,
        capacity_bps=link.capacity_bps,
        reservable_bps=link.reservable_bps,
        reserved_bps=reserved_bps,
        free_bps=link.reservable_bps - reserved_bps,
        queue_bytes=link.queue_bytes,
        idle_slope_bps=link.idle_slope_bps,
        slots=link.slot_count,
    )


def paths_body(snapshot: Snapshot, source: str, destination: str) -> PathsBody:
    """The body of candidate paths between two hosts, with the bandwidth free now."""
    paths = candidate_paths(snapshot.network, source, destination, snapshot.down)
    down = separating_spans(snapshot.network, source, destination, snapshot.down) if not paths else ()
    bodies = [_path_body(path, snapshot) for path in paths]
    return PathsBody(source=source, destination=destination, down=list(down), paths=bodies)


def _path_body(path: Path, snapshot: Snapshot) -> PathBody:
    links = snapshot.network.links_along(path)
    free = [
        PathLink(
            link=link.name,
            free_bps=link.reservable_bps - snapshot.calendar.reserved_bps(link.name, snapshot.now_s),
        )
        for link in links
    ]
    return PathBody(
        nodes=list(path),
        length_km=sum(link.length_km for link in links),
        propagation_us=round(sum(link.propagation_us for link in links), 3),
        free_bps=min(link.free_bps for link in free),
        links=free,
    )
