"""Streams in terms of IEEE 802.1Qcc: reservations, and for time-aware talkers a place in the schedule beside them.

A stream lives as long as its reservation. Its frames are scheduled along the path of the reservation without moving
others; if the path changes, the schedule no longer holds for it, and the bound of the reservation is what is left.
"""

from __future__ import annotations

import threading
from math import ceil

from pydantic import TypeAdapter

from controller.domain.path import link_names
from controller.domain.reservation import Reservation
from controller.errors import LedgerUnavailable, NoSchedule, NotFound, StreamInUse
from controller.service.reservation_service import Service
from controller.tsn.network import tsn_network_from_map
from controller.tsn.requests import StreamRecord, StreamRequest
from controller.tsn.scheduler import add_stream
from controller.tsn.streams import Schedule

SYNC_ERROR_NS = 1000
"""Most by which a synchronized clock is off. Source: IEEE 802.1AS-2020 §B.3: 1 us over seven hops."""

_RECORD = TypeAdapter(StreamRecord)


class Streams:
    """The streams of a map. Thread-safe."""

    def __init__(self, service: Service) -> None:
        self._service = service
        processing_ns = ceil(service.calibration.switch_max_us * 1000)
        self.network = tsn_network_from_map(service.network, processing_ns, SYNC_ERROR_NS)
        self._lock = threading.RLock()
        self._records: dict[str, StreamRecord] | None = None
        self._claimed: set[str] = set()

    def claim(self, stream_id: str) -> None:
        """Keep a StreamID for a request in progress, until the claim is given up.

        Raises: StreamInUse, LedgerUnavailable.
        """
        with self._lock:
            if stream_id in self._claimed or stream_id in self._live():
                raise StreamInUse(f"Stream {stream_id} is there already.", StreamID=stream_id)
            self._claimed.add(stream_id)

    def give_up_claim(self, stream_id: str) -> None:
        """End the claim of a request in progress."""
        with self._lock:
            self._claimed.discard(stream_id)

    def complete(self, request: StreamRequest, reservation: Reservation) -> StreamRecord:
        """Schedule a stream that has its reservation, and record it; the reservation is released if that fails.

        Raises: NoSchedule, LedgerUnavailable.
        """
        try:
            with self._lock:
                record = self._scheduled(request, reservation)
                self._service.ledger.write_stream(request.stream_id, _RECORD.dump_json(record).decode())
                self._live()[request.stream_id] = record
        except (NoSchedule, LedgerUnavailable):
            self._service.release(reservation.id)
            raise
        return record

    def _scheduled(self, request: StreamRequest, reservation: Reservation) -> StreamRecord:
        links = link_names(reservation.placements[0].path)
        if request.time_aware is None:
            return StreamRecord(request, reservation.id, links)
        stream = request.scheduled(request.time_aware)
        added = add_stream(self.network.only(links), self.schedule(), stream)
        if added.refused:
            (refusal,) = added.refused
            error = NoSchedule(f"{refusal.reason}.")
            error.ieee8021q_failure_code = int(refusal.code)
            raise error
        frames = tuple(frame for frame in added.frames if frame.stream == stream.name)
        return StreamRecord(request, reservation.id, links, frames, max(added.latency_ns[stream.name].values()))

    def schedule(self) -> Schedule:
        """Return the schedule of all time-aware streams."""
        with self._lock:
            scheduled = [record for record in self._live().values() if record.frames]
        streams, latency_ns = {}, {}
        for record in scheduled:
            if record.request.time_aware is not None and record.latency_ns is not None:
                streams[record.request.stream_id] = record.request.scheduled(record.request.time_aware)
                latency_ns[record.request.stream_id] = {record.request.listener: record.latency_ns}
        return Schedule(streams, tuple(frame for record in scheduled for frame in record.frames), latency_ns)

    def records(self) -> list[tuple[StreamRecord, Reservation]]:
        """Return all streams with their reservations, in the order of their ids."""
        with self._lock:
            found = sorted(self._live().items())
        return [(record, self._service.queries.reservation(record.reservation_id)) for _, record in found]

    def find(self, stream_id: str) -> tuple[StreamRecord, Reservation]:
        """Return a stream with its reservation.

        Raises: NotFound.
        """
        with self._lock:
            record = self._live().get(stream_id)
        if record is None:
            raise NotFound(f"There is no stream {stream_id}.")
        return record, self._service.queries.reservation(record.reservation_id)

    def release(self, stream_id: str) -> tuple[StreamRecord, Reservation]:
        """End a stream and its reservation.

        Raises: NotFound, LedgerUnavailable.
        """
        record, _ = self.find(stream_id)
        released = self._service.release(record.reservation_id)
        with self._lock:
            self._live()
        return record, released

    def _live(self) -> dict[str, StreamRecord]:
        """Return the streams whose reservations are live; forget the others."""
        if self._records is None:
            records = [_RECORD.validate_json(record) for record in self._service.ledger.streams()]
            self._records = {record.request.stream_id: record for record in records}
        ended = [name for name, record in self._records.items() if not self._is_live(record)]
        if ended:
            self._service.ledger.delete_streams(ended)
            for name in ended:
                del self._records[name]
        return self._records

    def _is_live(self, record: StreamRecord) -> bool:
        try:
            return self._service.queries.stored(record.reservation_id).is_live
        except NotFound:
            return False
