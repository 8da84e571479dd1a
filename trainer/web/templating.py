"""Jinja templates of this package; everything in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

NOT_KNOWN = "-"


@cache
def environment() -> jinja2.Environment:
    """Return the environment: undefined names are errors, all values are escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"mbps": mbps, "ms": ms, "clock": clock, "when": when, "bytes": byte_count}
    return made


def render(template: str, **values: Any) -> str:
    """Render a template."""
    return environment().get_template(template).render(values)


class Pieces:
    """Renders a template for each of several things, and only those anew that have changed: rows, spans."""

    def __init__(self, template: str, name: str) -> None:
        """`name`: of the thing in the template."""
        self._template, self._name = template, name
        self._kept: dict[str, tuple[object, str]] = {}

    def render(self, things: Mapping[str, object], **values: Any) -> Markup:
        """Return all pieces in order; `things`: by a name that stays. `values` must be the same at every call."""
        kept = {}
        for key, thing in things.items():
            before = self._kept.get(key)
            is_same = before is not None and before[0] == thing
            kept[key] = before if before is not None and is_same else (
                thing, render(self._template, **{self._name: thing}, **values)
            )
        self._kept = kept
        return Markup("".join(html for _, html in kept.values()))


def mbps(rate_bps: float) -> str:
    """A rate in Mb/s."""
    return f"{rate_bps / 1e6:.4g} Mb/s"


def ms(microseconds: float | None) -> str:
    """A time in milliseconds."""
    return NOT_KNOWN if microseconds is None else f"{microseconds / 1e3:.2f} ms"


def clock(at_s: float | None) -> str:
    """A time of day."""
    return "earlier" if at_s is None else datetime.fromtimestamp(at_s, UTC).astimezone().strftime("%H:%M:%S")


def when(text: str | None) -> str:
    """A time of the REST API, RFC 3339, as local date and time."""
    if text is None:
        return NOT_KNOWN
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def byte_count(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"
