"""Around every request: counted, timed and, if it changes something or was turned away, written into the audit log."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.middleware.concurrency import ALL, ConcurrencyLimit
from controller.api.schemas.problem_details import answer
from controller.errors import ControllerError, Overloaded
from controller.telemetry.audit_writer import AuditWriter, record_of
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

CHANGES = frozenset({"POST", "PATCH", "DELETE", "PUT"})
TURNED_AWAY = frozenset({401, 403})
NOT_WRITTEN = frozenset({404, 405, 408, 413, 429})
"""Answers that anybody can draw in any number; they are counted, not written down."""

STRANGERS_S = 1.0
"""Of those who are turned away for want of a token one is written down in so many seconds: anybody can be that."""


class RequestLogMiddleware:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics, scribe: AuditWriter) -> None:
        self._app = app
        self._metrics = metrics
        self._scribe = scribe
        self._lane = ConcurrencyLimit("requests", ALL)
        self._stranger_at_s = -STRANGERS_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it through, and take note."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 500
        state = scope.setdefault("state", {})

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._note(scope, status)
                self._metrics.count_request(_method(scope), _route(scope), status, time.monotonic() - began_s)
            await send(message)

        try:
            with self._lane.place(""):
                await self._app(scope, receive, sending)
        except Overloaded as error:
            state["code"] = error.code
            await answer(error)(scope, receive, sending)
        except Exception:
            state["code"] = ControllerError.code
            await self._note(scope, 500)
            self._metrics.count_request(_method(scope), _route(scope), 500, time.monotonic() - began_s)
            raise

    async def _note(self, scope: Scope, status: int) -> None:
        if status not in TURNED_AWAY and (scope["method"] not in CHANGES or status in NOT_WRITTEN):
            return
        if scope["state"].get("noted") == status:  # together with what was done
            return
        if status == 401:
            if time.monotonic() - self._stranger_at_s < STRANGERS_S:
                return
            self._stranger_at_s = time.monotonic()
        try:
            await self._scribe.write(record_of(scope, status))
        except Exception:
            self._metrics.count_audit_failure()
            log.exception("audit log: cannot be written method=%s path=%s", scope["method"], scope["path"])


def _method(scope: Scope) -> str:
    """Its method, of the known ones: a label that anybody could invent would fill the memory."""
    known = CHANGES | {"GET", "HEAD", "OPTIONS"}
    return scope["method"] if scope["method"] in known else "other"


def _route(scope: Scope) -> str:
    """The route's template, not the path."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
