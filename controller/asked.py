"""What clients ask the service for."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from controller.admission import Request
from controller.facts import fact
from controller.reservation import Flow


@fact
class Asked:
    """A reservation as a client wants it. Times are seconds since the epoch; None: from now, or without an end.

    `hold`: only keep the capacity, for `lease_s` seconds or until it is committed.
    """

    owner: str
    tenant: str
    lease_s: float
    flows: tuple[Flow, ...]
    hold: bool = False
    start_at_s: float | None = None
    end_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class RepeatKey:
    """What makes a request the same as an earlier one: the key its tenant chose. The digest is that of its body."""

    tenant: str
    key: str
    body_digest: str


def request_of(asked: Asked, reservation_id: str) -> Request:
    """What admission decides on for a new reservation of that id."""
    return Request(reservation_id, 1, asked.flows, asked.start_at_s, until_s(asked.end_at_s))


def until_s(end_at_s: float | None) -> float:
    """The end of what is to last until then."""
    return inf if end_at_s is None else end_at_s
