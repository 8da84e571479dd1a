"""The controller's error tree.

    ControllerError
    ├── RequestError          the request cannot be processed (4xx)
    │   ├── InvalidRequest    422 invalid_request
    │   ├── UnknownHost       422 unknown_host
    │   ├── NotFound          404 not_found
    │   ├── NotLive           409 not_live
    │   ├── NotHeld           409 not_held
    │   ├── KeyReused         422 idempotency_key_reused
    │   ├── InProgress        409 request_in_progress
    │   ├── TooLarge          413 too_large
    │   ├── TooSlow           408 request_timeout
    │   ├── HeadersTooLarge   431 headers_too_large
    │   ├── MalformedRequest  400 malformed_request
    │   ├── UnsupportedMediaType  415 unsupported_media_type
    │   └── NotAvailable      501 not_available
    ├── Denied                the caller lacks permission (401, 403) or quota (403, 429)
    │   ├── Unauthorized      401 unauthorized
    │   ├── Forbidden         403 forbidden
    │   ├── CrossOrigin       403 cross_origin
    │   ├── QuotaExceeded     403 quota_exceeded
    │   └── TooManyRequests   429 too_many_requests
    ├── Refused               admission control rejects a valid request (409)
    │   ├── NoPath            no_path
    │   ├── NoDisjointPath    no_disjoint_path
    │   ├── NoCapacity        no_capacity
    │   ├── NoSpectrum        no_spectrum
    │   ├── OutOfReach        out_of_reach
    │   ├── LatencyNotMet     latency_not_met
    │   ├── NoBuffer          no_buffer
    │   └── FlowInUse         flow_in_use
    ├── StreamError           a stream of IEEE 802.1Qcc is refused (409)
    │   ├── StreamInUse       stream_in_use
    │   └── NoSchedule        no_schedule
    ├── SwitchError           a switch did not apply a change (503)
    │   ├── SwitchDown        switch_down
    │   ├── SwitchTimeout     switch_timeout
    │   └── SwitchRefused     switch_refused
    ├── Overloaded            the request queue is full (503, `retry_after_s`)
    ├── LedgerUnavailable     the ledger cannot be read or written now (503, `retry_after_s`)
    ├── NoActiveController    a standby does not know the active controller (503, `retry_after_s`)
    └── StartError            the process cannot start; has an exit code
"""

# ruff: noqa: N818 - classes are named for the cause, without the suffix "Error"

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar


class ControllerError(Exception):
    """Base of the tree; `detail` is a sentence for people, `facts` are fields for programs.

    A bare ControllerError is a bug in the controller; every subclass has a cause outside it.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts: Mapping[str, object] = facts

    def problem(self) -> dict[str, object]:
        """Return the problem details of this error. Source: RFC 9457 §3."""
        return problem(self.status, self.code, self.title, self.detail, self.facts)


def problem(
    status: int, code: str, title: str, detail: str, facts: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return a problem details object; the facts follow the standard fields. Source: RFC 9457 §3."""
    head = {"type": f"urn:paceline:problem:{code}", "title": title, "status": status, "code": code}
    return {**head, "detail": detail, **(facts or {})}


class RequestError(ControllerError):
    """The request cannot be processed."""


class InvalidRequest(RequestError):
    """A field is missing or invalid; `mistakes` lists all of them."""

    code, status, title = "invalid_request", 422, "Invalid request"


class UnknownHost(RequestError):
    """A flow's source or destination is not a host of the map."""

    code, status, title = "unknown_host", 422, "Unknown host"


class NotFound(RequestError):
    """No object has this name."""

    code, status, title = "not_found", 404, "Not found"


class MethodNotAllowed(RequestError):
    """The path exists and does not take this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class NotLive(RequestError):
    """The reservation has ended and can no longer be changed."""

    code, status, title = "not_live", 409, "Not live"


class NotHeld(RequestError):
    """The reservation is not held, so it cannot be committed."""

    code, status, title = "not_held", 409, "Not held"


class KeyReused(RequestError):
    """The Idempotency-Key was used with a different body within a day."""

    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"


class InProgress(RequestError):
    """The first request with this Idempotency-Key is still being processed."""

    code, status, title = "request_in_progress", 409, "Request in progress"


class TooLarge(RequestError):
    """The body exceeds the size limit."""

    code, status, title = "too_large", 413, "Body too large"


class TooSlow(RequestError):
    """The body was not received within the time limit."""

    code, status, title = "request_timeout", 408, "Request timeout"


class HeadersTooLarge(RequestError):
    """Request line and headers are larger than `limit_bytes`."""

    code, status, title = "headers_too_large", 431, "Headers too large"


class MalformedRequest(RequestError):
    """What was received is not an HTTP request."""

    code, status, title = "malformed_request", 400, "Malformed request"


class UnsupportedMediaType(RequestError):
    """A web page of another origin sent a body not declared as JSON."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class NotAvailable(RequestError):
    """The function is not available in this mode of operation."""

    code, status, title = "not_available", 501, "Not available"


class Denied(ControllerError):
    """The caller lacks permission or quota."""

    status = 403


class Unauthorized(Denied):
    """The token is missing or unknown; `error` is for the WWW-Authenticate header (RFC 6750 §3.1)."""

    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(Denied):
    """The token lacks a scope."""

    code, title = "forbidden", "Forbidden"


class CrossOrigin(Denied):
    """A web page of another origin sent a request that needs no token."""

    code, title = "cross_origin", "Cross origin"


class QuotaExceeded(Denied):
    """The request would exceed the tenant's quota."""

    code, title = "quota_exceeded", "Quota exceeded"


class TooManyRequests(Denied):
    """The tenant has too many requests in progress; retry after `retry_after_s`."""

    code, status, title = "too_many_requests", 429, "Too many requests"


class Refused(ControllerError):
    """Admission control rejects the request.

    `ieee8021q_failure_code`: the corresponding failure code, if there is one. Source: IEEE 802.1Q-2022 Table 46-15 (the
    same numbers, openly: OPC 10000-22 §5.3.1.5).
    """

    status = 409
    ieee8021q_failure_code: ClassVar[int | None] = None
    advice: Callable[[Refused], Mapping[str, object]] | None = None
    """Computes the counter-offer: when the request would fit, what would be accepted now. Takes up to seconds."""

    def add_offer(self) -> None:
        """Add the counter-offer to the facts, once."""
        if self.advice is not None:
            self.facts, self.advice = {**self.facts, **self.advice(self)}, None

    def problem(self) -> dict[str, object]:
        """Return the problem details of this error. Source: RFC 9457 §3."""
        failure_code = self.ieee8021q_failure_code
        return super().problem() | ({} if failure_code is None else {"ieee8021q_failure_code": failure_code})


class NoPath(Refused):
    """No path over links that are up connects source and destination."""

    code, title = "no_path", "No path"


class NoDisjointPath(Refused):
    """There is a path, but no backup path that shares no span (or duct) with it."""

    code, title = "no_disjoint_path", "No disjoint path"


class NoCapacity(Refused):
    """A link has less free bandwidth than the request needs; `bottleneck` identifies it."""

    code, title = "no_capacity", "No capacity"
    ieee8021q_failure_code = 1


class NoSpectrum(Refused):
    """No lightpath has capacity left and no new one fits: `link` has no free channel."""

    code, title = "no_spectrum", "No spectrum"
    ieee8021q_failure_code = 1


class OutOfReach(Refused):
    """The GSNR after a fibre is `missing_db` below what the most robust modulation requires."""

    code, title = "out_of_reach", "Out of reach"


class LatencyNotMet(Refused):
    """The latency bound of a flow, new or existing, exceeds its limit."""

    code, title = "latency_not_met", "Latency not met"
    ieee8021q_failure_code = 21


class NoBuffer(Refused):
    """More could wait at the port of `link` than its queue holds: `backlog_bytes` against `queue_bytes`.

    `free_bytes`: what the other reservations leave of the queue.
    """

    code, title = "no_buffer", "No buffer"
    ieee8021q_failure_code = 2


class FlowInUse(Refused):
    """Another live reservation has packets of the same 5-tuple."""

    code, title = "flow_in_use", "Flow in use"
    ieee8021q_failure_code = 4


class StreamError(ControllerError):
    """A stream is refused for what only streams have; failure codes are those of IEEE 802.1Q-2022 Table 46-15."""

    status = 409
    ieee8021q_failure_code: int = 0

    def problem(self) -> dict[str, object]:
        """Return the problem details of this error. Source: RFC 9457 §3."""
        return super().problem() | {"ieee8021q_failure_code": self.ieee8021q_failure_code}


class StreamInUse(StreamError):
    """There is a stream with this StreamID."""

    code, title = "stream_in_use", "Stream in use"
    ieee8021q_failure_code = 4


class NoSchedule(StreamError):
    """The frames of the stream find no time on its path; the failure code is 1 or 21 where that is proven."""

    code, title = "no_schedule", "No schedule"
    ieee8021q_failure_code = 3


class SwitchError(ControllerError):
    """A switch did not apply a change; the change has been rolled back."""

    status = 503


class SwitchDown(SwitchError):
    """A required switch is not connected."""

    code, title = "switch_down", "Switch down"


class SwitchTimeout(SwitchError):
    """A switch did not confirm a change in time."""

    code, title = "switch_timeout", "Switch timeout"


class SwitchRefused(SwitchError):
    """A switch replied with an OpenFlow error."""

    code, title = "switch_refused", "Switch refused"


class Overloaded(ControllerError):
    """The request queue is full; retry after `retry_after_s`."""

    code, status, title = "overloaded", 503, "Overloaded"


class LedgerUnavailable(ControllerError):
    """The ledger cannot be read or written now; nothing was changed. Retry after `retry_after_s`."""

    code, status, title = "ledger_unavailable", 503, "Ledger unavailable"


class NoActiveController(ControllerError):
    """This controller is a standby, and the active one is not known. Retry after `retry_after_s`."""

    code, status, title = "no_active_controller", 503, "No active controller"


class StartError(ControllerError):
    """The process cannot start. Exit code 2: usage or configuration error; 3: the machine or network is not ready."""

    code, title = "start_failed", "Start failed"

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
