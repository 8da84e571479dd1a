"""Runs for the command line: of a directory on this machine, or by /v1/runs of another. Both answer the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from trainer.errors import NetworkError, UsageError
from trainer.records.run_control import RunProcess, ask_to_pause
from trainer.reservation.http_transport import HttpTransport, Response, TransportErrors
from trainer.web.run_store import FollowedRun, RunStore

Json = dict[str, Any]

TIMEOUT_S = 30.0


class RunAccess(Protocol):
    """What can be asked of runs. All raise UsageError for a run that does not exist or cannot do it."""

    def all(self) -> list[Json]:
        """Return all runs, newest first."""

    def show(self, run_id: str) -> Json:
        """Return a run."""

    def act(self, run_id: str, action: str) -> Json:
        """Pause, resume or stop a run, and return it."""

    def events(self, run_id: str, after: int) -> list[Json]:
        """Return the events after that number, each with its number."""

    def artefacts(self, run_id: str) -> list[Json]:
        """Return name and size of the files of its record."""

    def log(self, run_id: str, node: str) -> str:
        """Return what a process of the run printed."""


class LocalRuns:
    """The runs in a directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self._store = RunStore(directory)

    def all(self) -> list[Json]:
        """Return all runs, newest first."""
        return [run.facts() for run in self._store.all()]

    def show(self, run_id: str) -> Json:
        """Return a run."""
        return self._run(run_id).facts()

    def act(self, run_id: str, action: str) -> Json:
        """Pause, resume or stop a run, and return it."""
        run = self._run(run_id)
        apply(run, action)
        return run.facts()

    def events(self, run_id: str, after: int) -> list[Json]:
        """Return the events after that number, each with its number."""
        return [{"number": number, **row} for number, row in self._run(run_id).events_after(after)]

    def artefacts(self, run_id: str) -> list[Json]:
        """Return name and size of the files of its record."""
        return self._run(run_id).artefacts()

    def log(self, run_id: str, node: str) -> str:
        """Return what a process of the run printed."""
        path = self._run(run_id).artefact(f"{node}.log")
        if path is None:
            raise UsageError(f"Run {run_id} has no log of {node}.")
        return path.read_text(errors="replace")

    def _run(self, run_id: str) -> FollowedRun:
        run = self._store.get(Path(run_id).name)
        if run is None:
            raise UsageError(f"There is no run {run_id} in {self._store.directory}.")
        return run


def apply(run: FollowedRun, action: str) -> None:
    """Pause, resume or stop a run.

    Raises: UsageError if its process is not known.
    """
    process = RunProcess.of(run.directory)
    if process is None:
        raise UsageError(f"Run {run.id} is {run.status}, or its process is not known here.")
    if action == "stop":
        process.stop()
    else:
        ask_to_pause(run.directory, action == "pause")


class RemoteRuns:
    """The runs of a server of `paceline web`; its key comes from PACELINE_WEB_KEY."""

    def __init__(self, url: str) -> None:
        self.url = url
        key = os.environ.get("PACELINE_WEB_KEY")
        self._http = HttpTransport(url, {"Authorization": f"Bearer {key}"} if key else {}, TIMEOUT_S, None, "--url")

    def all(self) -> list[Json]:
        """Return all runs, newest first."""
        found: list[Json] = self._json("GET", "", query={"limit": "1000"})["runs"]
        return found

    def show(self, run_id: str) -> Json:
        """Return a run."""
        return self._json("GET", f"/{quote(run_id, safe='')}")

    def act(self, run_id: str, action: str) -> Json:
        """Pause, resume or stop a run, and return it."""
        return self._json("POST", f"/{quote(run_id, safe='')}/{action}")

    def events(self, run_id: str, after: int) -> list[Json]:
        """Return the events after that number, each with its number."""
        found: list[Json] = self._json("GET", f"/{quote(run_id, safe='')}/events", query={"after": str(after)})[
            "events"
        ]
        return found

    def artefacts(self, run_id: str) -> list[Json]:
        """Return name and size of the files of its record."""
        found: list[Json] = self._json("GET", f"/{quote(run_id, safe='')}/artefacts")["artefacts"]
        return found

    def log(self, run_id: str, node: str) -> str:
        """Return what a process of the run printed."""
        return self._send("GET", f"/{quote(run_id, safe='')}/artefacts/{quote(node, safe='')}.log").body

    def _json(self, method: str, path: str, query: dict[str, str] | None = None) -> Json:
        content = self._send(method, path, query).json_object()
        if content is None:
            raise NetworkError(f"{self.url} answered without a JSON object; is it `paceline web`?")
        return content

    def _send(self, method: str, path: str, query: dict[str, str] | None = None) -> Response:
        try:
            response = self._http.request(method, f"/v1/runs{path}", {} if method == "POST" else None, query)
        except TransportErrors as error:
            raise NetworkError(f"No server of `paceline web` answers at {self.url} ({error}).") from error
        if response.is_success:
            return response
        problem = response.json_object() or {}
        raise UsageError(str(problem.get("detail") or response.body.strip()))
