"""Corrections to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from controller.api.schemas.vocabulary import description_of

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
                _summarize(operation)
                if not with_tokens:
                    operation.pop("security", None)
                    operation["responses"].pop("401", None)
            if not with_tokens:
                schema["components"].pop("securitySchemes", None)
            self._list_hosts(schema)
            _describe(schema)
            self._documents[with_tokens] = schema
        return self._documents[with_tokens]

    def _list_hosts(self, schema: Json) -> None:
        for name in ("FlowBody", "TransferBody"):
            for end in ENDPOINTS:
                schema["components"]["schemas"][name]["properties"][end] = {"type": "string", "enum": self._hosts}
        for parameter in schema["paths"]["/v1/paths"]["get"]["parameters"]:
            if parameter["name"] in ENDPOINTS:
                parameter["schema"] = {"type": "string", "enum": self._hosts}


def _describe(schema: Json) -> None:
    """Give every property without a description that of the vocabulary."""
    for kind, definition in schema["components"]["schemas"].items():
        for name, described in definition.get("properties", {}).items():
            if "description" not in described and (text := description_of(kind, name)) is not None:
                described["description"] = text


def _summarize(operation: Json) -> None:
    """Replace the summary that is made of the function's name by the first sentence of its description."""
    first = operation.get("description", "").partition("\n\n")[0].replace("\n", " ")
    if first:
        operation["summary"] = first.partition(". ")[0].rstrip(".")


def _operations(schema: Json) -> list[Json]:
    return [operation for path in schema["paths"].values() for operation in path.values()]


def _remove_json_errors(operation: Json) -> None:
    for status, response in operation["responses"].items():
        if status >= "400":
            response["content"].pop("application/json", None)
