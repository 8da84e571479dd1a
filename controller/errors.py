"""Everything that can go wrong in the controller, as one tree.

ControllerError
├── RequestError          the request cannot be understood (4xx)
│   ├── InvalidRequest    422 invalid_request
│   ├── UnknownHost       422 unknown_host
│   ├── NotFound          404 not_found
│   ├── NotLive           409 not_live
│   ├── NotHeld           409 not_held
│   ├── KeyReused         422 idempotency_key_reused
│   ├── InProgress        409 request_in_progress
│   ├── TooLarge          413 too_large
│   ├── TooSlow           408 request_timeout
│   ├── UnsupportedMediaType  415 unsupported_media_type
│   └── NotAvailable      501 not_available
├── Denied                who asks may not (401, 403), or not so much (403, 429)
│   ├── Unauthorized      401 unauthorized
│   ├── Forbidden         403 forbidden
│   ├── QuotaExceeded     403 quota_exceeded
│   └── TooManyRequests   429 too_many_requests
├── Refused               understood, but the network cannot promise it (409)
│   ├── NoPath            no_path
│   ├── NoDisjointPath    no_disjoint_path
│   ├── NoCapacity        no_capacity
│   ├── NoSpectrum        no_spectrum
│   ├── OutOfReach        out_of_reach
│   ├── LatencyNotMet     latency_not_met
│   └── FlowInUse         flow_in_use
├── SwitchError           a switch did not do its part (503)
│   ├── SwitchDown        switch_down
│   ├── SwitchTimeout     switch_timeout
│   └── SwitchRefused     switch_refused
├── Overloaded            too many requests wait already (503, `retry_after_s`)
└── StartError            the process cannot start; has an exit code
"""

# ruff: noqa: N818 - named for what happened, as the tree above reads

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar


class ControllerError(Exception):
    """Base of the tree; `detail` is a sentence for a person, `facts` are fields for a program.

    A bare ControllerError is a bug in the controller; every other one has a cause outside it.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts: Mapping[str, object] = facts

    def problem(self) -> dict[str, object]:
        """The problem details of this error. Source: RFC 9457 §3."""
        return problem(self.status, self.code, self.title, self.detail, self.facts)


def problem(
    status: int, code: str, title: str, detail: str, facts: Mapping[str, object] | None = None
) -> dict[str, object]:
    """One problem details object; the facts follow the standard fields. Source: RFC 9457 §3."""
    head = {"type": f"urn:paceline:problem:{code}", "title": title, "status": status, "code": code}
    return {**head, "detail": detail, **(facts or {})}


class RequestError(ControllerError):
    """The request cannot be understood."""


class InvalidRequest(RequestError):
    """A field is missing or wrong; `mistakes` lists all of them."""

    code, status, title = "invalid_request", 422, "Invalid request"


class UnknownHost(RequestError):
    """A flow's end is not a host of the map."""

    code, status, title = "unknown_host", 422, "Unknown host"


class NotFound(RequestError):
    """There is nothing of that name."""

    code, status, title = "not_found", 404, "Not found"


class NotLive(RequestError):
    """The reservation has ended and cannot be changed any more."""

    code, status, title = "not_live", 409, "Not live"


class NotHeld(RequestError):
    """Only a reservation that is held can be committed."""

    code, status, title = "not_held", 409, "Not held"


class KeyReused(RequestError):
    """The Idempotency-Key was used for another body within a day."""

    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"


class InProgress(RequestError):
    """The first request with this Idempotency-Key is still being answered."""

    code, status, title = "request_in_progress", 409, "Request in progress"


class TooLarge(RequestError):
    """The body is larger than the controller reads."""

    code, status, title = "too_large", 413, "Body too large"


class TooSlow(RequestError):
    """The body did not come within the time allowed."""

    code, status, title = "request_timeout", 408, "Request timeout"


class UnsupportedMediaType(RequestError):
    """A web page of another origin sent a body that it did not declare as JSON."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class NotAvailable(RequestError):
    """This way of running the controller does not have it."""

    code, status, title = "not_available", 501, "Not available"


class Denied(ControllerError):
    """Who asks may not have it."""

    status = 403


class Unauthorized(Denied):
    """No token, or none that is known; `error` is for the WWW-Authenticate header (RFC 6750 §3.1)."""

    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(Denied):
    """The token lacks a scope."""

    code, title = "forbidden", "Forbidden"


class QuotaExceeded(Denied):
    """The tenant would hold more than its quota."""

    code, title = "quota_exceeded", "Quota exceeded"


class TooManyRequests(Denied):
    """The tenant has too many requests unanswered; try again after `retry_after_s`."""

    code, status, title = "too_many_requests", 429, "Too many requests"


class Refused(ControllerError):
    """The network cannot promise what was asked.

    `ieee8021q_failure_code`: the number of the same reason there, if there is one. Source: IEEE 802.1Q-2022 Table 46-15
    (the same numbers, openly: OPC 10000-22 §5.3.1.5).
    """

    status = 409
    ieee8021q_failure_code: ClassVar[int | None] = None
    advice: Callable[[Refused], Mapping[str, object]] | None = None
    """Works out further facts that help: when it would fit, what would be accepted now. It takes a while."""

    def add_offer(self) -> None:
        """Add those facts, once."""
        if self.advice is not None:
            self.facts, self.advice = {**self.facts, **self.advice(self)}, None

    def problem(self) -> dict[str, object]:
        """The problem details of this error. Source: RFC 9457 §3."""
        known = self.ieee8021q_failure_code
        return super().problem() | ({} if known is None else {"ieee8021q_failure_code": known})


class NoPath(Refused):
    """No path of links that are up joins the two ends."""

    code, title = "no_path", "No path"


class NoDisjointPath(Refused):
    """There is a path, but no second one without a common span to protect it."""

    code, title = "no_disjoint_path", "No disjoint path"


class NoCapacity(Refused):
    """A link has less to give than the request wants of it; `bottleneck` says which."""

    code, title = "no_capacity", "No capacity"
    ieee8021q_failure_code = 1


class NoSpectrum(Refused):
    """No lightpath has room and no new one can be lit: `link` has no channel free."""

    code, title = "no_spectrum", "No spectrum"
    ieee8021q_failure_code = 1


class OutOfReach(Refused):
    """Light does not get over a span: `missing_db` of GSNR are missing for the most robust modulation."""

    code, title = "out_of_reach", "Out of reach"


class LatencyNotMet(Refused):
    """The proven bound of a flow, new or standing, lies above its limit."""

    code, title = "latency_not_met", "Latency not met"
    ieee8021q_failure_code = 21


class FlowInUse(Refused):
    """Another live reservation holds the same 5-tuple."""

    code, title = "flow_in_use", "Flow in use"
    ieee8021q_failure_code = 4


class SwitchError(ControllerError):
    """A switch did not do its part; whatever was begun has been undone."""

    status = 503


class SwitchDown(SwitchError):
    """A switch that is needed is not connected."""

    code, title = "switch_down", "Switch down"


class SwitchTimeout(SwitchError):
    """A switch did not confirm in time."""

    code, title = "switch_timeout", "Switch timeout"


class SwitchRefused(SwitchError):
    """A switch answered with an OpenFlow error."""

    code, title = "switch_refused", "Switch refused"


class Overloaded(ControllerError):
    """Too many requests wait already; try again after `retry_after_s`."""

    code, status, title = "overloaded", 503, "Overloaded"


class StartError(ControllerError):
    """The process cannot start. Exit code 2: asked for wrongly; 3: the machine or network is not ready."""

    code, title = "start_failed", "Start failed"

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
