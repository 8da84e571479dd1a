"""Places for requests in progress, by what they are for and whose they are.

Renewals, health and documents have places of their own, so that nothing else can keep them from being answered.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.middleware.authentication import is_open
from controller.api.middleware.concurrency import ConcurrencyLimit, Lane, QueueLimits, lane_of
from controller.api.schemas.problem_details import problem_response
from controller.errors import Overloaded, TooManyRequests

REQUESTS = QueueLimits(running=512, queued=0, per_lane=192, for_operators=64)
"""Requests without a complete response, apart from those below; event streams are among them."""
RENEWALS = QueueLimits(running=256, queued=0, per_lane=96, for_operators=32)
HEALTH = QueueLimits(running=256, queued=0, per_lane=64)
DOCUMENTS = QueueLimits(running=64, queued=0, per_lane=16)


class RequestLanes:
    """Answers 429 where the tenant or address has too many requests in progress, 503 where all have."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests = ConcurrencyLimit("requests", REQUESTS)
        self._renewals = ConcurrencyLimit("renewals", RENEWALS)
        self._health = ConcurrencyLimit("health checks", HEALTH)
        self._documents = ConcurrencyLimit("documents", DOCUMENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application while the request has a place."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        limit, lane = self._limit(scope), request_lane(scope)
        try:
            limit.count(lane)
        except (Overloaded, TooManyRequests) as error:
            state["code"] = error.code
            await problem_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            limit.discount(lane)

    def _limit(self, scope: Scope) -> ConcurrencyLimit:
        if scope["path"] == "/v1/healthz":
            return self._health
        if is_open(scope["path"]):
            return self._documents
        return self._renewals if scope["method"] == "PATCH" else self._requests


def request_lane(scope: Scope) -> Lane:
    """The lane of a request: of its caller, or of its address where it needs no token."""
    caller = scope["state"].get("caller")
    return Lane(f"Address {(scope.get('client') or ('',))[0]}") if caller is None else lane_of(caller)
