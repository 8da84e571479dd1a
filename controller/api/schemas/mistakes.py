"""Mistakes of a request body in one sentence each: the value that was given, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from controller.api.schemas.fields import InvalidFields
from controller.api.schemas.patterns import rule_of
from controller.api.schemas.requests import TAGS

SHOWN_CHARACTERS = 60
MAX_CHARACTERS = 500

_MISSING = "it is missing"
_UNKNOWN = "there is no field of this name"


def _at_least(limits: Mapping[str, Any], one: str, several: str) -> str:
    least = limits["min_length"]
    return f"at least {least} {one if least == 1 else several}"


def _written(limit: float) -> str:
    """A limit without an exponent, as it would be written in a request."""
    return str(int(limit)) if float(limit).is_integer() else f"{limit:.12g}"


_RIGHT: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda limits: f"it must be at least {_written(limits['ge'])}",
    "greater_than": lambda limits: f"it must be above {_written(limits['gt'])}",
    "less_than_equal": lambda limits: f"it must be at most {_written(limits['le'])}",
    "less_than": lambda limits: f"it must be below {_written(limits['lt'])}",
    "int_type": lambda _: "it must be a whole number",
    "int_parsing": lambda _: "it must be a whole number",
    "int_parsing_size": lambda _: "it must be a whole number of at most 18 digits",
    "int_from_float": lambda _: "it must be a whole number",
    "float_type": lambda _: "it must be a number",
    "float_parsing": lambda _: "it must be a number",
    "finite_number": lambda _: "it must be a finite number",
    "bool_type": lambda _: "it must be true or false",
    "bool_parsing": lambda _: "it must be true or false",
    "string_type": lambda _: "it must be a text",
    "string_unicode": lambda _: "it must be a text in Unicode",
    "string_too_short": lambda limits: f"it must have {_at_least(limits, 'character', 'characters')}",
    "string_too_long": lambda limits: f"it must have at most {limits['max_length']} characters",
    "string_pattern_mismatch": lambda limits: rule_of(limits["pattern"]),
    "literal_error": lambda limits: f"it must be {limits['expected']}",
    "enum": lambda limits: f"it must be {limits['expected']}",
    "list_type": lambda _: "it must be a list",
    "too_short": lambda limits: f"it must have {_at_least(limits, 'entry', 'entries')}",
    "too_long": lambda limits: f"it must have at most {limits['max_length']} entries",
    "dict_type": lambda _: "it must be an object",
    "model_type": lambda _: "it must be an object",
    "model_attributes_type": lambda _: "it must be an object",
    "datetime_parsing": lambda _: "there is no such time",
    "datetime_from_date_parsing": lambda _: "there is no such time",
    "datetime_object_invalid": lambda _: "there is no such time",
}
"""Types of pydantic's errors -> what would be right. Source: https://docs.pydantic.dev/latest/errors/validation_errors/"""


def mistakes_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return errors of pydantic as places and messages."""
    mistakes = []
    for error in found:
        if error["type"] == "json_invalid":
            mistakes.append({"place": "body", "message": _not_json(error)})
            continue
        place = ".".join(_without_tags(error["loc"], error["type"] == "extra_forbidden"))
        cause = error.get("ctx", {}).get("error")
        inner = cause.mistakes if isinstance(cause, InvalidFields) else [("", _right(error))]
        for within, message in inner:
            value = _value_at(error.get("input"), within)
            sentence = message if message in (_MISSING, _UNKNOWN) else _with_value(value, message)
            mistakes.append({"place": encodable(".".join(filter(None, (place, within)))),
                             "message": encodable(sentence)})
    return mistakes


def _without_tags(location: Sequence[str | int], ends_with_field: bool) -> list[str]:
    """Return the steps to a field without those that name a form of a quote or of a requirement."""
    last = len(location) - 1 if ends_with_field else len(location)
    return [
        str(step) for number, step in enumerate(location)
        if not (step in TAGS and number < last and (number == 1 or location[number - 1] == "requirement"))
    ]


def encodable(text: str) -> str:
    """Return text that can be encoded: input of clients may contain lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()[:MAX_CHARACTERS]


def _right(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind == "missing":
        return _MISSING if error["loc"][1:] else "it is missing; the request needs a JSON object"
    if kind == "extra_forbidden":
        return _UNKNOWN
    if kind in _RIGHT:
        return _RIGHT[kind](error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Value error, ")


def _not_json(error: Mapping[str, Any]) -> str:
    """Describe where the body is not JSON; `loc` ends with the position."""
    reason = str(error.get("ctx", {}).get("error", ""))
    where = error["loc"][-1]
    at = f" at character {where + 1}" if isinstance(where, int) else ""
    return f"it is not JSON{at}{f': {reason[0].lower()}{reason[1:]}' if reason else ''}"


_NOTHING = object()


def _value_at(value: object, place: str) -> object:
    """Return the part of a value at a dotted place; _NOTHING if it has none."""
    for step in filter(None, place.split(".")):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _NOTHING
    return value


def _with_value(value: object, message: str) -> str:
    """Put the value in front of what would be right, unless the message names it; objects are too long to repeat."""
    if value is _NOTHING:
        return message
    if value and isinstance(value, (Mapping, list)):
        kind = f"a list of {len(value)}" if isinstance(value, list) else "an object"
        return f"it is {kind}; {message}" if message.startswith("it must") else message
    shown = _shown(value)
    named = str(value)
    if named and (named in message.split() or f"{named!r}" in message or message.startswith((named, _MISSING))):
        return message
    return f"it is {shown}; {message}"


def _shown(value: object) -> str:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
