"""Jinja templates of this package; everything in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


PIECES = Markup("<!--pieces-->")
HINT = Markup("<!--hint-->")
"""Where a template has them: the shell is what it renders with these instead."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A fragment with many pieces, of which few change: rows of a table, spans of a map.

    `pieces`: by the id of their element, all in one element, in order. `hint`: id and HTML of one more.
    """

    shell: str
    pieces: Mapping[str, str]
    hint: tuple[str, str] = ("", "")
    is_svg: bool = False

    def __str__(self) -> str:
        return self.shell.replace(PIECES, "".join(self.pieces.values())).replace(HINT, self.hint[1])

    def changes_since(self, before: Parts) -> dict[str, Any] | None:
        """Return what has changed; None if that is more than pieces of it."""
        if self.shell != before.shell or self.pieces.keys().isdisjoint(before.pieces):
            return None
        changed = {id_: html for id_, html in self.pieces.items() if before.pieces.get(id_) != html}
        if self.hint != before.hint:
            changed[self.hint[0]] = self.hint[1]
        order = list(self.pieces)
        changes: dict[str, Any] = {"changed": changed, "svg": self.is_svg}
        return changes if order == list(before.pieces) else {**changes, "order": order}


class Pieces:
    """Renders a template for each of several things, and only those anew that have changed: rows, spans."""

    def __init__(self, template: str, name: str) -> None:
        """`name`: of the thing in the template."""
        self._template, self._name = template, name
        self._kept: dict[str, tuple[object, str]] = {}

    def render(self, things: Mapping[str, object], **values: Any) -> dict[str, str]:
        """Return all pieces in order; `things`: by a name that stays. `values` must be the same at every call."""
        kept = {}
        for key, thing in things.items():
            before = self._kept.get(key)
            is_same = before is not None and before[0] == thing
            kept[key] = before if before is not None and is_same else (
                thing, render(self._template, **{self._name: thing}, **values)
            )
        self._kept = kept
        return {key: html for key, (_, html) in kept.items()}


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
