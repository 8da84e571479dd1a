"""Server-sent events of the controller. Source: WHATWG HTML, "Server-sent events", §9.2.6."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SILENT_S = 45.0
"""A stream without even a comment for so long has been cut; the controller sends one every 15 s."""

IDLE_S = 1.0
"""The events that have happened come at once; after this pause there are no more of them."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event; `id` is None for events that are not numbered."""

    id: str | None
    kind: str
    data: dict[str, Any]


def events_of(lines: Iterable[str]) -> Iterator[Event]:
    """Parse the lines of a stream; comments and fields of no interest are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            data = json.loads(fields["data"])
            yield Event(fields.get("id"), fields.get("event", "message"), data if isinstance(data, dict) else {})
        fields = {}
