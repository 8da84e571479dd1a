"""Errors in the form of CAMARA's commonalities: `status`, `code`, `message`.

Source: CAMARA_common.yaml of Commonalities 0.6 (r3.3).
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.api.schemas.patterns import X_CORRELATOR
from controller.api.schemas.problem_details import PROBLEM_TYPE
from controller.api.schemas.reservation_responses import ResponseBody

QOD = "/quality-on-demand/v1"
BOOKING = "/qos-booking/v0.1"
PROFILES = "/qos-profiles/v1"
PREFIXES = (QOD, BOOKING, PROFILES)
API_NAMES = {QOD: "QUALITY_ON_DEMAND", BOOKING: "QOS_BOOKING", PROFILES: "QOS_PROFILES"}


class CamaraError(Exception):
    """A refusal with CAMARA's status and code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class ErrorInfo(ResponseBody):
    """An error of CAMARA."""

    status: Annotated[int, Field(description="The HTTP status.", examples=[400])]
    code: Annotated[str, Field(description="What programs tell errors apart by.", examples=["INVALID_ARGUMENT"])]
    message: Annotated[str, Field(description="A sentence for people.")]


CODES: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "INVALID_ARGUMENT"),
    "unknown_host": (400, "INVALID_ARGUMENT"),
    "unauthorized": (401, "UNAUTHENTICATED"),
    "forbidden": (403, "PERMISSION_DENIED"),
    "cross_origin": (403, "PERMISSION_DENIED"),
    "not_found": (404, "NOT_FOUND"),
    "method_not_allowed": (405, "METHOD_NOT_ALLOWED"),
    "flow_in_use": (409, "CONFLICT"),
    "quota_exceeded": (429, "QUOTA_EXCEEDED"),
    "too_many_requests": (429, "TOO_MANY_REQUESTS"),
    "internal_error": (500, "INTERNAL"),
}
"""The controller's codes -> CAMARA's. A refusal by admission is QOS_PROFILE_NOT_APPLICABLE, a 503 UNAVAILABLE; others
keep their status, and their code is written in capitals."""


def error_info(prefix: str, problem: dict[str, Any]) -> dict[str, object]:
    """A problem of the controller as an error of the API at that prefix."""
    status, code = int(problem["status"]), str(problem["code"])
    if code in CODES:
        status, code = CODES[code]
    elif status == 409:
        status, code = 422, f"{API_NAMES[prefix]}.QOS_PROFILE_NOT_APPLICABLE"
    elif status == 503:
        code = "UNAVAILABLE"
    else:
        code = code.upper()
    return {"status": status, "code": code, "message": problem["detail"]}


async def camara_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a CamaraError."""
    assert isinstance(error, CamaraError)
    request.state.code = error.code
    return JSONResponse({"status": error.status, "code": error.code, "message": error.message}, error.status)


def prefix_of(path: str) -> str | None:
    """The API of CAMARA that a path belongs to."""
    return next((prefix for prefix in PREFIXES if path.startswith(f"{prefix}/")), None)


class CamaraAnswers:
    """Repeats `x-correlator`, and turns the problems of every layer below into errors of CAMARA, at its paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        prefix = prefix_of(scope["path"]) if scope["type"] == "http" else None
        if prefix is None:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-correlator"), b"").decode("latin-1")
        correlator = given if given and re.fullmatch(X_CORRELATOR, given) else None
        start: Message | None = None

        async def answer(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if correlator is not None:
                    headers["x-correlator"] = correlator
                if headers.get("content-type") == PROBLEM_TYPE:
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                body = error_info(prefix, json.loads(message["body"]))
                text = json.dumps(body).encode()
                headers = MutableHeaders(scope=start)
                headers["content-type"], headers["content-length"] = "application/json", str(len(text))
                start["status"], message = body["status"], {**message, "body": text}
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, answer)
