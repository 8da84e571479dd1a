"""The REST interface under /v1. Every refusal is problem details (RFC 9457); the contract is in docs/architecture.md.

Handlers are coroutines that hand the work to `beside`: a pool of threads under uvicorn, a plain call where every
request has a greenlet of its own (ryu-manager).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from controller.asked import Asked
from controller.bodylimit import BodyLimit
from controller.errors import ControllerError, InvalidRequest, UnknownHost, problem
from controller.reservation import State
from controller.schemas import (
    Counters,
    Health,
    NetworkBody,
    PathsBody,
    Problem,
    ReservationBody,
    ReservationChange,
    ReservationDetail,
    ReservationList,
    ReservationRequest,
)
from controller.service import Service
from controller.swagger import add_docs
from controller.views import counters_body, network_body, paths_body, reservation_body

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Beside = Callable[..., Awaitable[Any]]

PROBLEM_TYPE = "application/problem+json"
MISTAKES_SHOWN = 50

DESCRIPTION = """Reserve paths with a rate and a proven latency bound through a deterministic network.

A rate is in L2 bits per second (Ethernet header included, preamble and FCS not). A directed link is named `a->b`."""


class ProblemSpeakingApp(FastAPI):
    """Describes its refusals as what they are: problem details, not plain JSON."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description."""
        schema = super().openapi()
        for operations in schema["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    if status >= "400":
                        response["content"].pop("application/json", None)
        return schema


def create_app(
    service: Service,
    propagation_emulated: Callable[[], bool] = lambda: False,
    beside: Beside = run_in_threadpool,
) -> FastAPI:
    """The application on a running service."""
    app = ProblemSpeakingApp(
        title="Paceline controller", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    add_docs(app)
    app.add_middleware(BodyLimit)
    _answer_errors(app)
    _add_network_routes(app, service, propagation_emulated, beside)
    _add_reservation_routes(app, service, beside)
    return app


def _add_network_routes(
    app: FastAPI, service: Service, propagation_emulated: Callable[[], bool], beside: Beside
) -> None:
    @app.get("/v1/healthz", tags=["network"], responses=_problems())
    async def health() -> Health:
        """Whether every switch is connected and holds what it should."""
        up, expected = service.switches_up(), len(service.network.switches)
        return Health(status="ok" if up == expected else "degraded", switches_up=up, switches_expected=expected)

    @app.get("/v1/network", tags=["network"], responses=_problems())
    async def network() -> NetworkBody:
        """Nodes, links with what is reserved, and what is not as the map says."""

        def read() -> NetworkBody:
            return network_body(service.snapshot(), propagation_emulated())

        body: NetworkBody = await beside(read)
        return body

    @app.get("/v1/paths", tags=["network"], responses=_problems(422))
    async def paths(
        source: Annotated[str, Query(examples=["edge1"])], destination: Annotated[str, Query(examples=["cloud"])]
    ) -> PathsBody:
        """Candidate paths between two hosts, best first, with what is free now."""
        hosts = [host.name for host in service.network.hosts]
        for end in (source, destination):
            if end not in hosts:
                raise UnknownHost(f"There is no host {end!r}; the hosts are {', '.join(hosts)}.", host=end)

        def read() -> PathsBody:
            return paths_body(service.snapshot(), source, destination)

        body: PathsBody = await beside(read)
        return body


def _add_reservation_routes(app: FastAPI, service: Service, beside: Beside) -> None:
    @app.post("/v1/reservations", status_code=201, tags=["reservations"], responses=_problems(409, 413, 422, 503))
    async def reserve(request: ReservationRequest) -> ReservationBody:
        """Reserve all flows or none; answered when every switch on the paths has confirmed."""
        flows = tuple(flow.to_flow() for flow in request.flows)
        asked = Asked(request.owner, "public", request.lease_s, flows)
        reservation, _replayed = await beside(service.reserve, asked)
        return reservation_body(reservation)

    @app.get("/v1/reservations", tags=["reservations"], responses=_problems(422))
    async def reservations(state: State | None = None) -> ReservationList:
        """All live reservations and those that ended not long ago, oldest first."""
        return ReservationList(reservations=[reservation_body(each) for each in service.reservations(state)])

    @app.get("/v1/reservations/{reservation_id}", tags=["reservations"], responses=_problems(404, 422))
    async def reservation(reservation_id: str) -> ReservationDetail:
        """A reservation with its meters' and entries' counters, read from the switches now."""

        def read() -> ReservationDetail:
            found = service.reservation(reservation_id)
            counters: Counters = counters_body(service.network, found, *service.counters(found))
            return ReservationDetail(**dict(reservation_body(found)), counters=counters)

        body: ReservationDetail = await beside(read)
        return body

    @app.patch(
        "/v1/reservations/{reservation_id}", tags=["reservations"], responses=_problems(404, 409, 413, 422, 503)
    )
    async def modify(reservation_id: str, change: ReservationChange) -> ReservationBody:
        """Renew the lease and, with `flows`, change what is reserved; on any refusal it stays as it was."""
        flows = None if change.flows is None else tuple(flow.to_flow() for flow in change.flows)
        return reservation_body(await beside(service.modify, reservation_id, change.lease_s, flows))

    @app.delete("/v1/reservations/{reservation_id}", tags=["reservations"], responses=_problems(404, 422))
    async def release(reservation_id: str) -> ReservationBody:
        """Release it; one that has already ended is answered as it ended."""
        return reservation_body(await beside(service.release, reservation_id))


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How the refusals of a route are described in OpenAPI."""
    titles = {
        404: "Not found",
        409: "Refused: no_capacity, no_path, latency_not_met, flow_in_use or not_live",
        413: "Body too large",
        422: "Invalid request: all mistakes at once",
        503: "A switch is away or did not confirm; nothing was changed",
        500: "A bug in the controller",
    }
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": titles[status], "model": Problem, "content": content} for status in (*statuses, 500)
    }


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ControllerError)
    async def refused(_request: Request, error: ControllerError) -> JSONResponse:
        return _answer(error.problem())

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        mistakes = [
            {"place": _clean(".".join(str(step) for step in each["loc"])), "message": _clean(str(each["msg"]))}
            for each in error.errors()
        ]
        shown = mistakes[:MISTAKES_SHOWN]
        first = f"{shown[0]['place']}: {shown[0]['message']}" if shown else "it cannot be read"
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        return _answer(InvalidRequest(f"The request is not valid: {first}{more}.", mistakes=shown).problem())

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # a body that is no text, or nested too deep to read
            return _answer(InvalidRequest("The body is not JSON that can be read.", mistakes=[]).problem())
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "http_error")
        title = code.replace("_", " ").capitalize()
        return _answer(problem(error.status_code, code, title, _clean(str(error.detail)) + "."), error.headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("bug method=%s path=%s", request.method, request.url.path, exc_info=error)
        return _answer(ControllerError("The controller has a bug here; its log says more.").problem())


def _answer(body: dict[str, Any], headers: Any = None) -> JSONResponse:
    return JSONResponse(body, body["status"], headers, media_type=PROBLEM_TYPE)


def _clean(text: str) -> str:
    """Text that can be sent: what a client wrote may hold halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()[:500]
