"""REST for runs under /v1/runs, and their metrics for Prometheus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from trainer.errors import UsageError
from trainer.web.run_access import apply
from trainer.web.run_metrics import render_metrics
from trainer.web.run_processes import RunProcesses, RunRequest
from trainer.web.run_store import FollowedRun, RunStore

Json = dict[str, Any]
Action = Literal["pause", "resume", "stop"]

EVENTS_POLL_S = 0.3
KEEP_ALIVE_POLLS = 30


class MetricBody(BaseModel):
    """The metric of a run."""

    name: Annotated[str, Field(description="Its name, such as accuracy.")]
    better: Annotated[str, Field(description="`higher` or `lower`.")]
    target: Annotated[float | None, Field(description="The value that ends the run; null: none.")]
    final: Annotated[float | None, Field(description="The last value; null before the first averaging.")]
    best: Annotated[float | None, Field(description="The best value so far.")]


class PromisesBody(BaseModel):
    """Transfers over reserved flows."""

    made: Annotated[int, Field(description="Transfers that had a bound.")]
    kept: Annotated[int, Field(description="Those that arrived within it.")]


class RunBody(BaseModel):
    """A run as it is now."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(description="Name of its directory.")]
    status: Annotated[str, Field(description="`running`, `paused`, `done`, `failed` or `stopped` before its end.")]
    error: Annotated[str | None, Field(description="Why it failed, as a sentence.")]
    map: Annotated[str | None, Field(description="The map; null for a local run.")]
    model: Annotated[str | None, Field(description="The model; null until it is chosen.")]
    rounds: Annotated[int, Field(description="Finished rounds.")]
    of: Annotated[int | None, Field(description="Most rounds.")]
    metric: Annotated[MetricBody, Field(description="The metric of the global model.")]
    promises: Annotated[PromisesBody, Field(description="Promised transfers so far.")]
    loss: Annotated[float | None, Field(description="Mean loss of the last finished round.")]
    started_at: Annotated[float | None, Field(description="Seconds since the epoch.")]
    can_stop: Annotated[bool, Field(description="Whether its process is known, so that it can be paused and stopped.")]


class RunList(BaseModel):
    """All runs, newest first."""

    runs: Annotated[list[RunBody], Field(description="The runs of the directory.")]


class RoundList(BaseModel):
    """Finished rounds."""

    rounds: Annotated[list[Json], Field(description="Rows as in `rounds.jsonl` (docs/run-record.md).")]


class EventList(BaseModel):
    """Events of a run."""

    events: Annotated[list[Json], Field(description="Lines of `events.jsonl`, each with its `number` from 1.")]


class Artefact(BaseModel):
    """A file of the record."""

    name: Annotated[str, Field(description="Its name.")]
    bytes: Annotated[int, Field(description="Its size.")]


class ArtefactList(BaseModel):
    """The files of a record."""

    artefacts: Annotated[list[Artefact], Field(description="All files of the run's directory.")]


def run_routes(store: RunStore, processes: RunProcesses) -> APIRouter:
    """The routes under /v1/runs, and /metrics."""
    router = APIRouter(tags=["runs"])

    def found(run_id: str) -> FollowedRun:
        run = store.get(run_id)
        if run is None:
            raise HTTPException(404, f"There is no run {run_id} in {store.directory}.")
        return run

    @router.get("/v1/runs")
    def runs(limit: Annotated[int, Query(ge=1, le=1000, description="Most runs to list.")] = 100) -> RunList:
        """List the runs, newest first."""
        return RunList(runs=[RunBody(**run.facts()) for run in store.all()[:limit]])

    @router.post("/v1/runs", status_code=201)
    async def start(request: RunRequest) -> RunBody:
        """Start a run; answered when its record exists, after some seconds."""
        try:
            name = await run_in_threadpool(processes.start, request)
        except UsageError as error:
            raise HTTPException(409, str(error)) from error
        return RunBody(**found(name).facts())

    @router.get("/v1/runs/{run_id}")
    def show(run_id: str) -> RunBody:
        """A run as it is now."""
        return RunBody(**found(run_id).facts())

    @router.get("/v1/runs/{run_id}/rounds")
    def rounds(run_id: str, after: Annotated[int, Query(ge=0, description="Only later rounds.")] = 0) -> RoundList:
        """The finished rounds with everything that was planned, reserved and measured."""
        return RoundList(rounds=[row for row in found(run_id).rounds if row["round"] > after])

    @router.post("/v1/runs/{run_id}/{action}")
    def act(run_id: str, action: Action) -> RunBody:
        """Pause a run after its present round, resume it, or stop it as Ctrl-C does."""
        run = found(run_id)
        act_on(run, action)
        return RunBody(**found(run_id).facts())

    _add_files(router, found)

    @router.get("/v1/runs/{run_id}/events", response_model=None)
    def events(
        run_id: str,
        after: Annotated[int, Query(ge=0, description="Number of the last event already read.")] = 0,
        follow: Annotated[bool, Query(description="Stream later ones, too, as server-sent events.")] = False,
    ) -> EventList | StreamingResponse:
        """What happened in a run, as a list or as a stream."""
        found(run_id)
        if follow:
            return StreamingResponse(_event_stream(store, run_id, after), media_type="text/event-stream")
        return EventList(events=[{"number": number, **row} for number, row in found(run_id).events_after(after)])

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Metrics of the runs for Prometheus."""
        return Response(render_metrics(store.all()), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def act_on(run: FollowedRun, action: Action) -> None:
    """Pause, resume or stop a run.

    Raises: HTTPException if its process is not known.
    """
    try:
        apply(run, action)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error


def _add_files(router: APIRouter, found: Any) -> None:
    @router.get("/v1/runs/{run_id}/artefacts")
    def artefacts(run_id: str) -> ArtefactList:
        """The files of a run's record."""
        return ArtefactList(artefacts=[Artefact(**each) for each in found(run_id).artefacts()])

    @router.get("/v1/runs/{run_id}/artefacts/{name}", response_class=FileResponse)
    def artefact(run_id: str, name: str) -> FileResponse:
        """A file of a run's record, to be saved."""
        path: Path | None = found(run_id).artefact(name)
        if path is None:
            raise HTTPException(404, f"Run {run_id} has no file {name}.")
        return FileResponse(path, media_type="application/octet-stream", filename=name)


async def _event_stream(store: RunStore, run_id: str, after: int) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    polls = 0
    while (run := store.get(run_id)) is not None:
        events = run.events_after(after)
        for number, row in events:
            after = number
            yield f"id: {number}\nevent: {row['event']}\ndata: {json.dumps(row)}\n\n"
        if not events and run.status not in ("running", "paused"):
            return
        polls += 1
        if polls % KEEP_ALIVE_POLLS == 0:
            yield ": keep-alive\n\n"
        await asyncio.sleep(EVENTS_POLL_S)
