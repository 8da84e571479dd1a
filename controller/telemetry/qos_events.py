"""Status changes of QoS sessions and bookings as CloudEvents of CAMARA, saved and then sent to their sinks."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from controller.errors import LedgerUnavailable
from controller.service.qos_sessions import QosSession
from controller.telemetry.sink_delivery import Delivery, SinkDelivery

SESSIONS_PATH = "/quality-on-demand/v1/sessions"
BOOKINGS_PATH = "/qos-booking/v0.1/device-qos-bookings"
TYPES = {
    "session": "org.camaraproject.quality-on-demand.v1.qos-status-changed",
    "booking": "org.camaraproject.qos-booking.v0.status-changed",
}
UNTOLD = "REQUESTED"
"""The status that has no event."""


def cloud_event(session: QosSession, at_s: float) -> dict[str, object]:
    """The event of its present status. Source: quality-on-demand 1.1.0 and qos-booking 0.1.0, CloudEvents 1.0.2."""
    is_session = session.kind == "session"
    names = ("sessionId", "qosStatus") if is_session else ("bookingId", "status")
    data = {names[0]: session.id, names[1]: session.status}
    if session.status_info is not None:
        data["statusInfo"] = session.status_info
    return {
        "id": str(uuid.uuid4()),
        "source": f"{SESSIONS_PATH if is_session else BOOKINGS_PATH}/{session.id}",
        "type": TYPES[session.kind],
        "specversion": "1.0",
        "datacontenttype": "application/json",
        "time": datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }


def delivery_of(session: QosSession, at_s: float, save: Callable[[QosSession], None]) -> Delivery:
    """What is to be done about a change: it is saved, and sent if the session has a sink."""

    def before() -> None:
        with contextlib.suppress(LedgerUnavailable):  # told anew after a restart
            save(session)

    has_event = session.sink is not None and session.status != UNTOLD
    body = json.dumps(cloud_event(session, at_s)).encode() if has_event else None
    return Delivery(session.id, session.sink, body, session.sink_token, session.sink_token_expires_s, before)


def tell_by(
    delivery: SinkDelivery, clock: Callable[[], float], save: Callable[[QosSession], None]
) -> Callable[[QosSession], None]:
    """Return what tells the sinks of every change."""
    return lambda session: delivery.submit(delivery_of(session, clock(), save))
