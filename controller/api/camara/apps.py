"""The three APIs of CAMARA, each an application with a document of its own, mounted into the REST application.

Source: quality-on-demand.yaml (1.1), qos-profiles.yaml (1.1) and qos-booking.yaml (0.1) of the releases of autumn 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI, Request

from controller.api.camara.bookings import booking_routes
from controller.api.camara.context import Camara
from controller.api.camara.errors import BOOKING, PROFILES, QOD, CamaraError, camara_error
from controller.api.camara.profile_routes import profile_routes
from controller.api.camara.sessions import session_routes
from controller.api.schemas.problem_details import add_error_handlers
from controller.errors import ControllerError

Json = dict[str, Any]
Redact = Callable[[Request, ControllerError], ControllerError]

OPENAPI = "/openapi.json"


class CamaraApp(FastAPI):
    """Documents errors as ErrorInfo only."""

    def openapi(self) -> Json:
        """Return the document without FastAPI's own errors."""
        if self.openapi_schema is None:
            document = deepcopy(super().openapi())
            for operation in _operations(document):
                schema = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
                if "HTTPValidationError" in str(schema):
                    del operation["responses"]["422"]
                operation["summary"] = operation.get("description", "").partition("\n")[0].rstrip(".")
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            for schema in document["components"]["schemas"].values():
                for field in schema.get("properties", {}).values():
                    _remove_null(field)
            self.openapi_schema = document
        return self.openapi_schema


def _operations(document: Json) -> Iterable[Json]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _remove_null(field: Json) -> None:
    """Document a field that may be left out, and is never null."""
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del field["anyOf"]
        field.update(kinds[0])
    if "default" in field and field["default"] is None:
        del field["default"]


def camara_apps(camara: Camara, redact: Redact) -> dict[str, FastAPI]:
    """The applications by the path that they are mounted at."""
    routers = {
        QOD: ("Quality on Demand", "1.1.0", session_routes(camara)),
        BOOKING: ("QoS Booking", "0.1.0", booking_routes(camara)),
        PROFILES: ("QoS Profiles", "1.1.0", profile_routes(camara)),
    }
    apps: dict[str, FastAPI] = {}
    for prefix, (title, version, router) in routers.items():
        app = CamaraApp(title=title, version=version, docs_url=None, redoc_url=None, redirect_slashes=False,
                        openapi_url=OPENAPI, separate_input_output_schemas=False)
        add_error_handlers(app, redact)
        app.add_exception_handler(CamaraError, camara_error)
        app.include_router(router)
        apps[prefix] = app
    return apps
