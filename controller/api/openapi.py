"""Corrections to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

Json = dict[str, Any]

ENDPOINTS = ("source", "destination")


class DocumentedApp(FastAPI):
    """Documents errors as problem details only, hosts by their names, and tokens only while they are required."""

    def __init__(self, hosts: Sequence[str], requires_tokens: Callable[[], bool], **settings: Any) -> None:
        super().__init__(**settings)
        self._hosts = list(hosts)
        self._requires_tokens = requires_tokens
        self._documents: dict[bool, Json] = {}

    def openapi(self) -> Json:
        """Return the document for the present configuration of tokens."""
        with_tokens = self._requires_tokens()
        if with_tokens not in self._documents:
            schema = deepcopy(super().openapi())
            for operation in _operations(schema):
                _remove_json_errors(operation)
                if not with_tokens:
                    operation.pop("security", None)
                    operation["responses"].pop("401", None)
            if not with_tokens:
                schema["components"].pop("securitySchemes", None)
            self._list_hosts(schema)
            self._documents[with_tokens] = schema
        return self._documents[with_tokens]

    def _list_hosts(self, schema: Json) -> None:
        for name in ("FlowBody", "TransferBody"):
            for end in ENDPOINTS:
                schema["components"]["schemas"][name]["properties"][end] = {"type": "string", "enum": self._hosts}
        for parameter in schema["paths"]["/v1/paths"]["get"]["parameters"]:
            if parameter["name"] in ENDPOINTS:
                parameter["schema"] = {"type": "string", "enum": self._hosts}


def _operations(schema: Json) -> list[Json]:
    return [operation for path in schema["paths"].values() for operation in path.values()]


def _remove_json_errors(operation: Json) -> None:
    for status, response in operation["responses"].items():
        if status >= "400":
            response["content"].pop("application/json", None)
