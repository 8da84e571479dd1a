"""QoS sessions and bookings of CAMARA: reservations with the status that was told of them.

A session is a reservation whose lease is its duration; a booking is one with a start and an end. What is told follows
the state of the reservation; once it has ended, the record is kept for KEPT_S, so that it can still be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import TypeAdapter

from controller.domain.events import ReservationChanged, ServiceEvent
from controller.domain.frozen import frozen
from controller.domain.reservation import Reservation, State
from controller.errors import LedgerUnavailable, NotFound
from controller.service.reservation_service import Service

KEPT_S = 3600.0
"""How long what has ended can be read; CAMARA asks for at least 360 s."""
KEPT_ENDED = 10_000

Kind = Literal["session", "booking"]
Status = tuple[str, str | None]
"""The status with CAMARA's word, and its `statusInfo`."""

DECLINED: Status = ("UNAVAILABLE", None)

_ENDED: Mapping[State, str] = {
    State.ENDED: "DURATION_EXPIRED",
    State.EXPIRED: "DURATION_EXPIRED",
    State.RELEASED: "DELETE_REQUESTED",
    State.FAILED: "NETWORK_TERMINATED",
}
_SESSION: Mapping[State, Status] = {
    State.HELD: ("REQUESTED", None),
    State.SCHEDULED: ("REQUESTED", None),
    State.ACTIVE: ("AVAILABLE", None),
    State.DEGRADED: ("UNAVAILABLE", "NETWORK_TERMINATED"),
    **{state: ("UNAVAILABLE", reason) for state, reason in _ENDED.items()},
}
_BOOKING: Mapping[State, Status] = {**_SESSION, State.SCHEDULED: ("SCHEDULED", None)}


@frozen
class QosSession:
    """A session or booking. `request`: what was asked for and is repeated in answers, as JSON values.

    `reservation_id`: None for a booking that was declined. `sink`: where its events go. `status`: as told last.
    `started_at_s`, `ended_at_s`: when it was available or active first, and when it ended.
    """

    id: str
    kind: Kind
    tenant: str
    reservation_id: str | None
    request: Mapping[str, Any]
    created_at_s: float
    duration_s: int
    sink: str | None = None
    sink_token: str | None = None
    sink_token_expires_s: float | None = None
    status: str = "REQUESTED"
    status_info: str | None = None
    started_at_s: float | None = None
    ended_at_s: float | None = None


_RECORD = TypeAdapter(QosSession)
Told = Callable[[QosSession], None]
"""Called after every change of a status, under the lock of QosSessions; must not block."""


def status_of(kind: Kind, state: State) -> Status:
    """What is told of a reservation in that state."""
    return (_SESSION if kind == "session" else _BOOKING)[state]


class QosSessions:
    """All sessions and bookings of a map. Thread-safe; `load` when the service has started."""

    def __init__(self, service: Service, clock: Callable[[], float], tell: Told) -> None:
        self._service, self._clock, self._tell = service, clock, tell
        self._lock = threading.RLock()
        self._sessions: dict[str, QosSession] | None = None
        self._by_reservation: dict[str, str] = {}
        service.queries.subscribe(self.on_event)

    def load(self) -> None:
        """Read the ledger, and tell what has changed since it was written.

        Raises: LedgerUnavailable.
        """
        with self._lock:
            self._loaded()

    def add(self, session: QosSession) -> QosSession:
        """Record a session that has its reservation, and tell its first status.

        Raises: LedgerUnavailable; the reservation is then released.
        """
        try:
            with self._lock:
                old = self._pop_old(self._loaded())
            if old:
                self._service.ledger.delete_qos_sessions(old)
            self._service.ledger.write_qos_session(session.id, _RECORD.dump_json(session).decode())
        except LedgerUnavailable:
            if session.reservation_id is not None:
                self._service.release(session.reservation_id)
            raise
        with self._lock:
            sessions = self._loaded()
            sessions[session.id] = session
            if session.reservation_id is None:
                self._change(session, DECLINED)
            else:
                self._by_reservation[session.reservation_id] = session.id
                self._follow(session, self._service.queries.stored(session.reservation_id))
            return sessions[session.id]

    def find(self, session_id: str, kind: Kind) -> QosSession:
        """Return a session or booking.

        Raises: NotFound, LedgerUnavailable.
        """
        with self._lock:
            found = self._loaded().get(session_id)
        if found is None or found.kind != kind:
            raise NotFound(f"There is no {kind} {session_id}.")
        return found

    def all(self, kind: Kind) -> list[QosSession]:
        """Return all sessions or bookings, oldest first.

        Raises: LedgerUnavailable.
        """
        with self._lock:
            found = [session for session in self._loaded().values() if session.kind == kind]
        return sorted(found, key=lambda session: (session.created_at_s, session.id))

    def reservation(self, session: QosSession) -> Reservation | None:
        """Return its reservation while that is live."""
        if session.reservation_id is None or session.ended_at_s is not None:
            return None
        try:
            return self._service.queries.stored(session.reservation_id)
        except NotFound:
            return None

    def remove(self, session_id: str) -> None:
        """Forget a session whose reservation has been released.

        Raises: LedgerUnavailable.
        """
        with self._lock:
            self._pop(self._loaded(), [session_id])
        self._service.ledger.delete_qos_sessions([session_id])

    def save(self, session: QosSession) -> None:
        """Write the present status of a session to the ledger, unless it has been removed. Not under the lock.

        Raises: LedgerUnavailable.
        """
        with self._lock:
            latest = (self._sessions or {}).get(session.id)
        if latest is None:
            return
        self._service.ledger.write_qos_session(latest.id, _RECORD.dump_json(latest).decode())
        with self._lock:
            is_removed = session.id not in (self._sessions or {})
        if is_removed:
            self._service.ledger.delete_qos_sessions([session.id])

    def on_event(self, event: ServiceEvent) -> None:
        """Follow the state of a reservation."""
        if not isinstance(event, ReservationChanged):
            return
        with self._lock:
            session_id = self._by_reservation.get(event.reservation.id)
            if session_id is not None and self._sessions is not None:
                self._follow(self._sessions[session_id], event.reservation)

    def _follow(self, session: QosSession, reservation: Reservation) -> None:
        self._change(session, status_of(session.kind, reservation.state), is_live=reservation.is_live)

    def _change(self, session: QosSession, status: Status, is_live: bool = False) -> None:
        if (session.status, session.status_info) == status or self._sessions is None:
            return
        now_s = self._clock()
        started_at_s = session.started_at_s
        if started_at_s is None and status[0] == "AVAILABLE":
            started_at_s = now_s
        ended_at_s = None if is_live else now_s
        changed = replace(
            session, status=status[0], status_info=status[1], started_at_s=started_at_s, ended_at_s=ended_at_s
        )
        self._sessions[session.id] = changed
        if changed.reservation_id is not None and not is_live:
            self._by_reservation.pop(changed.reservation_id, None)
        self._tell(changed)

    def _loaded(self) -> dict[str, QosSession]:
        if self._sessions is None:
            records = [_RECORD.validate_json(record) for record in self._service.ledger.qos_sessions()]
            self._sessions = {session.id: session for session in records}
            for session in records:
                if session.reservation_id is None or session.ended_at_s is not None:
                    continue
                self._by_reservation[session.reservation_id] = session.id
                try:
                    self._follow(session, self._service.queries.stored(session.reservation_id))
                except NotFound:
                    self._change(session, status_of(session.kind, State.FAILED))
        return self._sessions

    def _pop_old(self, sessions: dict[str, QosSession]) -> list[str]:
        ended = sorted(
            (session.ended_at_s, session.id) for session in sessions.values() if session.ended_at_s is not None
        )
        before_s, excess = self._clock() - KEPT_S, len(ended) - KEPT_ENDED
        old = [session_id for place, (at_s, session_id) in enumerate(ended) if at_s < before_s or place < excess]
        self._pop(sessions, old)
        return old

    def _pop(self, sessions: dict[str, QosSession], session_ids: list[str]) -> None:
        for session_id in session_ids:
            removed = sessions.pop(session_id, None)
            if removed is not None and removed.reservation_id is not None:
                self._by_reservation.pop(removed.reservation_id, None)
