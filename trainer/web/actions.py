"""What the page does at the controller. Each answers a piece of HTML for the element that shows results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from trainer.errors import ReservationRefusedError, TrainerError, UsageError
from trainer.reservation.controller_client import ControllerClient
from trainer.web.run_api import Action, act_on
from trainer.web.run_processes import RunProcesses, RunRequest
from trainer.web.run_store import RunStore
from trainer.web.templating import render

Json = dict[str, Any]
Empty = BeforeValidator(lambda value: None if value == "" else value)
OptionalNumber = Annotated[float | None, Empty]
OptionalPort = Annotated[int | None, Empty, Field(ge=1, le=65535)]
DAY_S = 86_400.0


class FlowForm(BaseModel):
    """The form that asks for one flow: a rate, or a transfer within a deadline. Empty fields are left out."""

    model_config = ConfigDict(extra="forbid")

    source: str
    destination: str
    protocol: Literal["tcp", "udp"] = "tcp"
    source_port: OptionalPort = None
    destination_port: OptionalPort = None
    rate_mbps: OptionalNumber = None
    transfer_kilobytes: OptionalNumber = None
    deadline_ms: OptionalNumber = None
    latency_ms: OptionalNumber = None
    protection: Literal["none", "link_disjoint", "duct_disjoint"] = "none"
    minutes: Annotated[float, Field(gt=0)] = 10.0

    def to_request(self) -> Json:
        """Return the body of POST /v1/reservations."""
        requirement: Json = {"protection": self.protection}
        if self.rate_mbps is not None:
            requirement["min_bandwidth_bps"] = round(self.rate_mbps * 1e6)
        if self.transfer_kilobytes is not None:
            requirement["transfer_bytes"] = round(self.transfer_kilobytes * 1e3)
        if self.deadline_ms is not None:
            requirement["deadline_ms"] = self.deadline_ms
        if self.latency_ms is not None:
            requirement["max_latency_us"] = self.latency_ms * 1e3
        match = {"protocol": self.protocol, "source_port": self.source_port, "destination_port": self.destination_port}
        flow = {
            "name": f"{self.source}-{self.destination}",
            "source": self.source,
            "destination": self.destination,
            "match": match,
            "requirement": requirement,
        }
        return {"owner": "page", "lease_s": min(self.minutes * 60, DAY_S), "flows": [flow]}


class Nothing(BaseModel):
    """An empty body."""

    model_config = ConfigDict(extra="forbid")


def run_action_routes(store: RunStore, processes: RunProcesses) -> APIRouter:
    """The routes under /actions/runs."""
    router = APIRouter(prefix="/actions/runs", include_in_schema=False)

    @router.post("")
    async def start(request: RunRequest) -> HTMLResponse:
        try:
            name = await run_in_threadpool(processes.start, request)
        except UsageError as error:
            return HTMLResponse(render("refused.html", sentence=str(error), problem={}), 409)
        return HTMLResponse(
            render("run_acted.html", name=name, what="has begun"), headers={"x-location": f"/runs/{name}"}
        )

    @router.post("/{name}/{action}")
    def act(name: str, action: Action, _body: Nothing) -> HTMLResponse:
        run = store.get(name)
        if run is None:
            raise HTTPException(404, f"There is no run {name}.")
        act_on(run, action)
        what = {"pause": "pauses after this round", "resume": "goes on", "stop": "ends"}[action]
        return HTMLResponse(render("run_acted.html", name=name, what=what))

    return router


def action_routes(connect: Callable[[], ControllerClient]) -> APIRouter:
    """The routes under /actions about the network; `connect` makes a client of the controller."""
    router = APIRouter(prefix="/actions", include_in_schema=False)

    async def send(method: str, path: str, body: Json | None = None) -> Json:
        def work() -> Json:
            with closing(connect()) as client:
                return client.send(method, path, body)

        return await run_in_threadpool(work)

    async def answer(method: str, path: str, body: Json | None, template: str, **values: Any) -> HTMLResponse:
        try:
            return HTMLResponse(render(template, content=await send(method, path, body), **values))
        except ReservationRefusedError as error:
            return HTMLResponse(render("refused.html", sentence=str(error), problem=error.problem), 409)
        except TrainerError as error:
            return HTMLResponse(render("refused.html", sentence=str(error), problem={}), 502)

    @router.post("/quote")
    async def quote_flow(form: FlowForm) -> HTMLResponse:
        return await answer("POST", "/v1/quotes", form.to_request(), "quoted.html")

    @router.post("/reserve")
    async def reserve(form: FlowForm) -> HTMLResponse:
        return await answer("POST", "/v1/reservations", form.to_request(), "reserved.html")

    @router.post("/reservations/{name}/release")
    async def release(name: str, _body: Nothing) -> HTMLResponse:
        return await answer("DELETE", f"/v1/reservations/{quote(name, safe='')}", None, "released.html")

    @router.post("/reservations/{name}/renew")
    async def renew(name: str, _body: Nothing) -> HTMLResponse:
        return await answer("PATCH", f"/v1/reservations/{quote(name, safe='')}", {"lease_s": 600}, "reserved.html")

    @router.post("/{kind}/{name}/{action}")
    async def maintain(
        kind: Literal["links", "ducts"], name: str, action: Literal["down", "up"], _body: Nothing
    ) -> HTMLResponse:
        return await answer("POST", f"/v1/{kind}/{quote(name, safe='')}/{action}", None, "maintained.html")

    return router
