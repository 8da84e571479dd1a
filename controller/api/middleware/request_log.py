"""Around every request: counted, timed and, if it changes something or was turned away, written into the audit log."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.middleware.concurrency import REQUESTS, ConcurrencyLimit
from controller.api.schemas.problem_details import problem_response
from controller.errors import ControllerError, Overloaded
from controller.telemetry.audit_writer import AuditWriter, record_of
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

CHANGING_METHODS = frozenset({"POST", "PATCH", "DELETE", "PUT"})
UNAUTHENTICATED = frozenset({401, 403})
NOT_AUDITED = frozenset({404, 405, 408, 413, 429})
"""Answers that anybody can draw in any number; they are counted, not written down."""

UNAUTHORIZED_INTERVAL_S = 1.0
"""Of those who are turned away for want of a token one is written down in so many seconds: anybody can be that."""


class RequestLogMiddleware:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit_writer: AuditWriter) -> None:
        self._app = app
        self._metrics = metrics
        self._audit_writer = audit_writer
        self._limit = ConcurrencyLimit("requests", REQUESTS)
        self._stranger_at_s = -UNAUTHORIZED_INTERVAL_S

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
            with self._limit.admit(""):
                await self._app(scope, receive, sending)
        except Overloaded as error:
            state["code"] = error.code
            await problem_response(error)(scope, receive, sending)
        except Exception:
            state["code"] = ControllerError.code
            await self._note(scope, 500)
            self._metrics.count_request(_method(scope), _route(scope), 500, time.monotonic() - began_s)
            raise

    async def _note(self, scope: Scope, status: int) -> None:
        if status not in UNAUTHENTICATED and (scope["method"] not in CHANGING_METHODS or status in NOT_AUDITED):
            return
        if scope["state"].get("noted") == status:  # together with what was done
            return
        if status == 401:
            if time.monotonic() - self._stranger_at_s < UNAUTHORIZED_INTERVAL_S:
                return
            self._stranger_at_s = time.monotonic()
        try:
            await self._audit_writer.write(record_of(scope, status))
        except Exception:
            self._metrics.count_audit_failure()
            log.exception("audit log: cannot be written method=%s path=%s", scope["method"], scope["path"])


def _method(scope: Scope) -> str:
    """Its method, of the known ones: a label that anybody could invent would fill the memory."""
    known = CHANGING_METHODS | {"GET", "HEAD", "OPTIONS"}
    return scope["method"] if scope["method"] in known else "other"


def _route(scope: Scope) -> str:
    """The route's template, not the path."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
