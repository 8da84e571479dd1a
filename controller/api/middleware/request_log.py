"""Counts and times every request; writes changes and rejected callers to the audit log."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.errors import ControllerError
from controller.security.audit import RefusalLimit
from controller.telemetry.audit_writer import AuditWriter, record_of
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

CHANGING_METHODS = frozenset({"POST", "PATCH", "DELETE", "PUT"})
UNAUTHENTICATED = frozenset({401, 403})
NOT_AUDITED = frozenset({404, 405, 408, 413, 429})
"""Statuses that any client can cause in any number; they are counted, not audited."""
CHANGE_NOTHING = frozenset({"/v1/quotes"})
"""Paths that are read with POST."""


class RequestLogMiddleware:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, audit_writer: AuditWriter) -> None:
        self._app = app
        self._metrics = metrics
        self._audit_writer = audit_writer
        self._refusals = RefusalLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, then count, time and audit the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.monotonic(), 500
        state = scope.setdefault("state", {})

        async def send_and_log(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._audit(scope, status)
                self._metrics.count_request(_method(scope), _route(scope), status, time.monotonic() - start_s)
            await send(message)

        try:
            await self._app(scope, receive, send_and_log)
        except Exception:
            state["code"] = ControllerError.code
            await self._audit(scope, 500)
            self._metrics.count_request(_method(scope), _route(scope), 500, time.monotonic() - start_s)
            raise

    async def _audit(self, scope: Scope, status: int) -> None:
        is_change = scope["method"] in CHANGING_METHODS and scope["path"] not in CHANGE_NOTHING
        if status not in UNAUTHENTICATED and (not is_change or status in NOT_AUDITED):
            return
        if scope["state"].get("audited") == status:  # in the transaction that stored the reservation
            return
        record = record_of(scope, status)
        if status >= 400:
            left_out = self._refusals.passes(record.tenant)
            if left_out is None:
                return
            if left_out:
                record = replace(record, request=f"[{left_out} earlier refusals left out] {record.request}")
        try:
            await self._audit_writer.write(record)
        except (SQLAlchemyError, OSError) as error:  # the writer tries again
            self._metrics.count_audit_failure()
            log.error("audit log: not written yet method=%s path=%s: %s", record.method, record.path, error)
        except Exception:
            self._metrics.count_audit_failure()
            log.exception("audit log: write failed method=%s path=%s", record.method, record.path)


def _method(scope: Scope) -> str:
    """The method, or `other`: labels that clients can invent would make the metrics grow without limit."""
    known = CHANGING_METHODS | {"GET", "HEAD", "OPTIONS"}
    return scope["method"] if scope["method"] in known else "other"


def _route(scope: Scope) -> str:
    """The template of the route, not the path."""
    path: str = getattr(scope.get("route"), "path", "none")
    return path
