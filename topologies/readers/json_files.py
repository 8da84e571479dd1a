"""JSON in which no value is replaced by another in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from topologies.readers.source import json_kind, unreadable

HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parsed_json(file: str, text: str) -> dict[str, Any]:
    """The object of a JSON file. No object may state a name twice with different values.

    Raises: MapError
    """

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for word, value in pairs:
            if word in facts and facts[word] != value:
                shown = " and ".join(json.dumps(each, ensure_ascii=False)[:60] for each in (facts[word], value))
                raise unreadable(file, f"an object states `{word}` twice: {shown}")
            facts[word] = value
        return facts

    try:
        facts = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise unreadable(file, error) from error
    if HALF_SURROGATE.search(text):
        try:
            json.dumps(facts, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise unreadable(file, f"{half} is half of a character; write its other half beside it") from error
    if not isinstance(facts, dict):
        raise unreadable(file, f"the JSON is {json_kind(facts)}; it must be an object")
    return facts
