"""Jinja templates of this package; everything in them is escaped."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2

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
