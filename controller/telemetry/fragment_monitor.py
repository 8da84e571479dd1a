"""Reports fragments between hosts with a reservation: they pass its meter and its mark."""

from __future__ import annotations

from collections.abc import Iterable

from controller.dataplane.entries import EntryKey
from controller.dataplane.fragment_entries import fragment_entry, max_datagram_bytes
from controller.domain.reservation import Placement, Reservation
from controller.service.queries import Queries
from controller.service.state import INSTALLED
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics

Place = tuple[str, EntryKey]
"""A switch, and the entry there that counts fragments of two hosts and a protocol."""


class FragmentMonitor:
    """Reports fragments to the metrics and as `violation` events with cause `fragmented`, one for each reservation."""

    def __init__(self, service: Queries, metrics: Metrics, stream: EventStream) -> None:
        self._service = service
        self._metrics = metrics
        self._stream = stream
        self._told: dict[Place, int] = {}

    def poll(self) -> None:
        """Read the entries of all switches at which a reservation begins."""
        installed = [found for found in self._service.published() if found.state in INSTALLED]
        switches = {placement.switches[0] for found in installed for placement in found.carried_placements}
        counts = self._service.fragments(sorted(switches))
        new = {
            (count.switch, count.key): fragments
            for count in counts
            if (fragments := count.packets - self._told.get((count.switch, count.key), 0)) > 0
        }
        for place, fragments in new.items():
            self._told[place] = self._told.get(place, 0) + fragments
            self._metrics.count_fragments(place[0], fragments)
        if new:
            self._publish(new, installed)

    def _publish(self, new: dict[Place, int], installed: Iterable[Reservation]) -> None:
        for reservation in installed:
            concerned: dict[Place, list[Placement]] = {}
            for placement in reservation.carried_placements:
                switch, entry = fragment_entry(self._service.network, placement)
                if (switch, entry.key) in new:
                    concerned.setdefault((switch, entry.key), []).append(placement)
            for place, placements in concerned.items():
                self._publish_one(reservation, place[0], new[place], placements)

    def _publish_one(self, reservation: Reservation, switch: str, packets: int, placements: list[Placement]) -> None:
        flow = placements[0].flow
        protocol, names = flow.match.protocol, ", ".join(placement.flow.name for placement in placements)
        limit_bytes = min(max_datagram_bytes(self._service.network.mtu_bytes, each.flow) for each in placements)
        reason = (
            f"{packets} fragments of {protocol} from {flow.source} to {flow.destination} passed {switch} unmetered and "
            f"unmarked, as best effort: a datagram of {names} may have {limit_bytes} bytes."
        )
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        facts = {"cause": "fragmented", "reason": reason, "switch": switch, "packets": packets}
        self._stream.publish("violation", {**head, **facts}, reservation.tenant)
