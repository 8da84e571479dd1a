"""Field types of requests with their limits, and errors that concern several fields.

A rate is in L2 bits per second, a size in L2 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from controller.booking.gate_schedule import MIN_PERIOD_US
from controller.domain.names import LONGEST_NAME, NAME_PATTERN
from controller.domain.ports import ports_from_text

SHORTEST_PERIOD_MS = MIN_PERIOD_US / 1000
"""Meters of a software switch cannot open and close shorter windows on time."""

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _number_only(value: object) -> object:
    if isinstance(value, (bool, str)):
        raise ValueError("give a number, not a string or a boolean")
    return value


NUMBER = BeforeValidator(_number_only)
"""Must be the last annotation; otherwise the limits before it are missing in the OpenAPI document."""

Port = Annotated[int, Field(ge=1, le=65535), NUMBER]

class _PortsOfMatch:
    """Validates one port, a range as text, or None in a single call: it is on the path of every reservation."""

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        port, printed = core_schema.int_schema(ge=1, le=65535), core_schema.simple_ser_schema("any")
        return core_schema.no_info_wrap_validator_function(_one_port_or_range, port, serialization=printed)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        port = handler(schema["schema"])
        return {
            "anyOf": [port, {"type": "string", "pattern": r"^\d{1,5}-\d{1,5}$"}, {"type": "null"}],
            "description": 'A port, a range such as "49152-65535", or null (or left out) for any port.',
            "examples": [7801, "49152-65535"],
        }


def _one_port_or_range(value: object, one_port: ValidatorFunctionWrapHandler) -> object:
    if value is None:
        return None
    if isinstance(value, str):
        ports_from_text(value)
        return value
    return one_port(_number_only(value))


PortMatch = Annotated[int | str | None, _PortsOfMatch()]
"""The ports of one end of a flow."""

Microseconds = Annotated[float, Field(ge=0.001, le=1e9, allow_inf_nan=False), NUMBER]
Milliseconds = Annotated[float, Field(ge=0.001, le=86_400_000, allow_inf_nan=False), NUMBER]
Slack = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), NUMBER]
LeaseSeconds = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False, examples=[60]), NUMBER]
Period = Annotated[
    float,
    Field(ge=SHORTEST_PERIOD_MS, le=86_400_000, allow_inf_nan=False, description="Counted in whole microseconds."),
    NUMBER,
]
Offset = Annotated[
    float,
    Field(ge=0, lt=86_400_000, allow_inf_nan=False, description="From each multiple of the period of Unix time."),
    NUMBER,
]
Bytes = Annotated[int, Field(ge=1, le=10**12, examples=[1_000_000]), NUMBER]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]


def _rfc_3339_only(value: object) -> object:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError('give an RFC 3339 timestamp with a time zone, for example "2026-01-01T09:30:00Z"')
    return value.upper().replace(" ", "T")


Timestamp = Annotated[AwareDatetime, BeforeValidator(_rfc_3339_only)]


class InvalidFields(ValueError):  # noqa: N818 - raised for pydantic; unpacked by mistakes.mistakes_of
    """Several mistakes in one object: (place in the object, message)."""

    def __init__(self, mistakes: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{place}: {message}" for place, message in mistakes))
        self.mistakes = tuple(mistakes)


class StrictBody(BaseModel):
    """A request body; unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid")
