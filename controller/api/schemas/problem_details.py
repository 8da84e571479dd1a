"""Errors as problem details (RFC 9457), and their description in the OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from math import ceil, isfinite
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from controller import errors
from controller.api.schemas import examples
from controller.api.schemas.mistakes import encodable, mistakes_of
from controller.api.schemas.reservation_responses import Problem
from controller.api.schemas.serializers import flow_json, utc_time
from controller.domain.reservation import Flow
from controller.errors import ControllerError, InvalidRequest, problem

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
MAX_MISTAKES = 50

_OFFER = {**examples.RATE_FLOW, "requirement": {"min_bandwidth_bps": 61_000_000, "burst_bytes": 40_000}}
_ADVICE = {"fits_at": "2026-01-01T00:05:00Z", "offer": {"flows": [_OFFER]}}

EXAMPLES: Sequence[ControllerError] = (
    InvalidRequest(
        "The request is not valid: body.flows.0.match.source_port: it is 70000; it must be at most 65535.",
        mistakes=[{"place": "body.flows.0.match.source_port", "message": "it is 70000; it must be at most 65535"}],
    ),
    errors.UnknownHost(
        "edge1-up: there is no host 'edge9' on map pair; its hosts are edge1, edge2, cloud.",
        flow="edge1-up",
        host="edge9",
    ),
    errors.NotFound("There is no reservation r-4f1c09ab."),
    errors.MethodNotAllowed("/v1/quotes takes POST, not GET."),
    errors.NotLive("Reservation r-4f1c09ab is released and cannot be changed."),
    errors.NotHeld("Reservation r-4f1c09ab is not held."),
    errors.KeyReused("The Idempotency-Key a-1 was used for another body."),
    errors.InProgress("The first request with the Idempotency-Key a-1 is still being answered."),
    errors.TooLarge("The body is larger than 1048576 bytes.", limit_bytes=1 << 20),
    errors.TooSlow("The body was not received within 10 s.", limit_s=10),
    errors.HeadersTooLarge("The headers are larger than 16384 bytes.", limit_bytes=16_384),
    errors.MalformedRequest("Invalid HTTP request received."),
    errors.UnsupportedMediaType("A web page of another origin must send Content-Type: application/json."),
    errors.NotAvailable("Inside ryu-manager there is no event stream; run paceline controller."),
    errors.Unauthorized("The token is not known here, or has been revoked."),
    errors.Forbidden("Token lab-1 has scope read; this needs reserve.", scope="reserve"),
    errors.CrossOrigin("Without tokens, web pages of other origins have no access: paceline token add."),
    errors.QuotaExceeded(
        "Tenant lab holds 90 Mb/s and asks for 15 Mb/s; its quota is 100 Mb/s.",
        quota="bandwidth_bps", held=90_000_000, asked=15_000_000, allowed=100_000_000,
    ),
    errors.TooManyRequests("Tenant lab has 48 changes in flight; wait for a response.", retry_after_s=1),
    errors.NoPath(
        "edge1-up: no path from edge1 to cloud: r1-r2 is down.", **{"flow": "edge1-up", "down": ["r1-r2"], **_ADVICE}
    ),
    errors.NoDisjointPath(
        "edge1-up: no second path from edge1 to cloud shares no span with the first.", flow="edge1-up", **_ADVICE
    ),
    errors.NoCapacity(
        "edge1-up needs 90 Mb/s; s1->s2 has 61 Mb/s free on the best of 1 paths.",
        **{"flow": "edge1-up", "bottleneck": examples.BOTTLENECK, **_ADVICE},
    ),
    errors.NoSpectrum(
        "edge1-up: no lightpath over r4->r5 has free capacity, and none of its 4 slots is free.",
        **{"flow": "edge1-up", "link": "r4->r5", "slots": 4, **_ADVICE},
    ),
    errors.OutOfReach(
        "edge1-up: r4->r5 (2500 km) is out of optical reach: DP-QPSK lacks 1.3 dB.",
        flow="edge1-up", link="r4->r5", missing_db=1.3, gsnr_db=12.7, fits_at=None, offer=None,
    ),
    errors.LatencyNotMet(
        "edge1-up: the proven latency would be 9000 us; its limit is 5000 us.",
        **{"flow": "edge1-up", "promise": "latency", "bound_us": 9000.0, "limit_us": 5000.0, **_ADVICE},
    ),
    errors.NoBuffer(
        "edge1-up: up to 4082000 bytes could wait at s1->s2; its queue holds 3000000, of which others leave 2940000.",
        **{"flow": "edge1-up", "link": "s1->s2", "failure": None, "backlog_bytes": 4_082_000, "queue_bytes": 3_000_000,
           "free_bytes": 2_940_000, **_ADVICE},
    ),
    errors.FlowInUse(
        "again: tcp from edge1:7801 to cloud:7800 is already reserved by r-4f1c09ab.",
        flow="again",
        reservation="r-4f1c09ab",
    ),
    errors.StreamInUse("Stream 02-00-00-00-00-01:00-01 is there already.", StreamID="02-00-00-00-00-01:00-01"),
    errors.NoSchedule(
        "02-00-00-00-00-01:00-01: no time was found in which the ports between edge1 and cloud are free for it.",
        StreamID="02-00-00-00-00-01:00-01",
        StatusInfo={"TalkerStatus": "Failed", "ListenerStatus": "Failed", "FailureCode": 3},
        FailedInterfaces=[{"InterfaceName": "s1-eth2", "MacAddress": None}],
    ),
    errors.SwitchDown("Switch s2 is not connected.", switches=["s2"]),
    errors.SwitchTimeout("No confirmation within 5 s from s2.", switches=["s2"]),
    errors.SwitchRefused("Switch s1 answered OFPET_METER_MOD_FAILED(12), OFPMMFC_METER_EXISTS(1).", switches=["s1"]),
    errors.Overloaded("96 changes are running or queued; try again later.", retry_after_s=1),
    errors.LedgerUnavailable(
        "The ledger cannot be written now, so nothing was changed; try again later.", retry_after_s=1
    ),
    errors.NoActiveController(
        "This controller is a standby, and no active one is known now; try again later.", retry_after_s=1
    ),
    ControllerError("Internal error of the controller; its log has the details."),
)
"""One example of each error that a client can receive."""

ErrorTypes = tuple[type[ControllerError], ...]

COMMON_ERRORS: ErrorTypes = (errors.TooManyRequests, errors.Overloaded, ControllerError)
ACCESS_ERRORS: ErrorTypes = (errors.Unauthorized, errors.Forbidden, errors.CrossOrigin)
BODY_ERRORS: ErrorTypes = (InvalidRequest, errors.TooLarge, errors.TooSlow, errors.UnsupportedMediaType)
ADMISSION_ERRORS: ErrorTypes = (errors.UnknownHost, *errors.Refused.__subclasses__())
SWITCH_ERRORS: ErrorTypes = (*errors.SwitchError.__subclasses__(), errors.LedgerUnavailable)
"""Of changes, which switches and the ledger must take."""

_MEANINGS = {
    400: "Not an HTTP request",
    401: "No token, or an invalid one",
    403: "The token lacks a scope, a quota is exceeded, or a web page of another origin has no token",
    404: "Not found",
    405: "The path does not take this method",
    408: "The body was received too slowly",
    409: "Refused; nothing was changed",
    413: "The body is too large",
    415: "A web page of another origin did not declare its body as JSON",
    422: "The request is not valid; all mistakes are listed",
    429: "The tenant or address has too many requests in flight",
    431: "The headers are too large",
    500: "Internal error of the controller",
    501: "Not available inside ryu-manager",
    503: "Overloaded, the ledger cannot be written, or a switch did not confirm; nothing was changed",
}


def problem_responses(*error_types: type[ControllerError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of a route's error responses, with an example for each error."""
    responses: dict[int | str, dict[str, Any]] = {}
    for example in EXAMPLES:
        if type(example) not in (*error_types, *COMMON_ERRORS):
            continue
        content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}}
        head = {"description": _MEANINGS[example.status], "model": Problem, "content": content}
        response = responses.setdefault(example.status, head)
        described = {"summary": example.title, "value": problem_of(example)}
        response["content"][PROBLEM_TYPE]["examples"][example.code] = described
        headers = {name: {"schema": {"type": "string"}} for name in headers_of(example)}
        if headers:
            response.setdefault("headers", {}).update(headers)
    return responses


def problem_of(error: ControllerError) -> dict[str, Any]:
    """Problem details of an error, as JSON values."""
    return {name: _json_value(name, fact) for name, fact in error.problem().items()}


def headers_of(error: ControllerError) -> dict[str, str]:
    """Response headers of an error. Source: RFC 6750 §3, RFC 9110 §10.2.3."""
    if isinstance(error, errors.Unauthorized):
        known = ', error="invalid_token"' if "token is not known" in error.detail else ""
        return {"WWW-Authenticate": f'Bearer realm="paceline"{known}'}
    if isinstance(error, errors.Forbidden):
        lacking = f'error="insufficient_scope", scope="{error.facts["scope"]}"'
        return {"WWW-Authenticate": f'Bearer realm="paceline", {lacking}'}
    retry_after_s = error.facts.get("retry_after_s")
    return {"Retry-After": str(max(1, ceil(retry_after_s)))} if isinstance(retry_after_s, (int, float)) else {}


def problem_response(error: ControllerError) -> JSONResponse:
    """The response to a request that failed with this error."""
    return _response(problem_of(error), headers_of(error))


def add_error_handlers(app: FastAPI, redact: Callable[[Request, ControllerError], ControllerError]) -> None:
    """Answer every error with problem details; `redact` removes what the caller must not see."""

    @app.exception_handler(ControllerError)
    async def refused(request: Request, error: ControllerError) -> JSONResponse:
        request.state.code = error.code
        return problem_response(redact(request, error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        request.state.code = InvalidRequest.code
        return problem_response(invalid_request(mistakes_of(error.errors())))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # what json.loads raises other than JSONDecodeError
            message = "it is not JSON: it is not UTF-8, nested too deeply, or has a number of thousands of digits"
            return problem_response(invalid_request([{"place": "body", "message": message}]))
        path = encodable(request.url.path)
        if error.status_code == errors.NotFound.status:
            return problem_response(errors.NotFound(
                encodable(f"There is no path {path}; GET /openapi.json lists those there are.")
            ))
        if error.status_code == errors.MethodNotAllowed.status:
            allowed = _allowed(app, request)
            detail = f"{path} takes {allowed.replace(', ', ' or ')}, not {encodable(request.method)}."
            return _response(problem_of(errors.MethodNotAllowed(encodable(detail))), {"Allow": allowed})
        return _response(problem(error.status_code, "http_error", "Http error", encodable(f"{error.detail}.")),
                         error.headers)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        log.error("internal error method=%s path=%s", request.method, request.url.path, exc_info=error)
        return problem_response(EXAMPLES[-1])


def _allowed(app: FastAPI, request: Request) -> str:
    """All methods of a path; the router reports those of one route only."""
    path = getattr(request.scope.get("route"), "path", "")
    known = app.openapi()["paths"].get(path, {"get": {}})
    return ", ".join(sorted(method.upper() for method in known))


def invalid_request(mistakes: Sequence[Mapping[str, str]]) -> InvalidRequest:
    """The error for a request with these mistakes."""
    listed = list(mistakes[:MAX_MISTAKES])
    first = f"{listed[0]['place']}: {listed[0]['message']}" if listed else "it cannot be read"
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return InvalidRequest(f"The request is not valid: {first}{more}.", mistakes=listed)


def _response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body, body["status"], headers, media_type=PROBLEM_TYPE)


def _json_value(name: str, fact: object) -> object:
    if name in ("fits_at", "fits_at_s") and isinstance(fact, (int, float)):
        return f"{utc_time(fact):%Y-%m-%dT%H:%M:%S.%fZ}"
    if isinstance(fact, Flow):
        return flow_json(fact)
    if name == "offer" and isinstance(fact, (list, tuple)):
        return {"flows": [_json_value("flow", flow) for flow in fact]}
    if isinstance(fact, float):
        return fact if isfinite(fact) else None
    if isinstance(fact, Mapping):
        return {str(key): _json_value(str(key), value) for key, value in fact.items()}
    if isinstance(fact, (list, tuple, set, frozenset)):
        return [_json_value(name, value) for value in fact]
    assert not is_dataclass(fact), name
    return fact
