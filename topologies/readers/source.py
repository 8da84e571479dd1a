"""What a file states about a network, before any check: `topologies.plants.survey` makes a fibre plant of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import hypot, isclose

from topologies.problems import MapError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class SourceSite:
    """A site. `key`: its identifier in the file; `x`, `y`: longitude and latitude, or coordinates on a drawing."""

    key: str
    name: str | None = None
    x: object = None
    y: object = None
    is_external: bool = False
    """A peer outside the network."""


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """A span between two sites, by their keys; the attributes have the names that the file gives them."""

    ends: tuple[str, str]
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceNetwork:
    """Sites and spans as stated.

    `is_directed`: every span is one direction, and one in the opposite direction belongs to the same fibre pair.
    `is_drawing`: the coordinates are those of a drawing; None: the file does not say.
    `has_dist`: the attribute `dist` of a span is the great-circle distance between its ends, as in topohub.
    """

    name: str
    source: str
    sites: tuple[SourceSite, ...]
    spans: tuple[SourceSpan, ...]
    is_directed: bool = False
    is_drawing: bool | None = False
    has_dist: bool = True
    notes: tuple[str, ...] = ()


def as_key(value: object) -> str:
    """An identifier as text: 5, 5.0 and "5" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def first_of(attributes: Mapping[str, object], *names: str) -> object:
    """The first of these attributes that is stated; None if none is."""
    return next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)


def off_globe(places: Iterable[tuple[object, object]]) -> bool:
    """Whether coordinates cannot be degrees: some are beyond 180 or 90."""
    return any(_beyond(x, 180) or _beyond(y, 90) for x, y in places)


def is_plane_in_km(network: SourceNetwork) -> bool:
    """Whether `dist` of every span is the distance of its ends on a plane, as in topohub's generated networks."""
    places = {site.key: (number_of(site.x), number_of(site.y)) for site in network.sites}
    for span in network.spans:
        (ax, ay), (bx, by) = (places.get(end, (None, None)) for end in span.ends)
        dist = number_of(span.attributes.get("dist"))
        if ax is None or ay is None or bx is None or by is None or dist is None:
            return False
        if not isclose(dist, hypot(ax - bx, ay - by), rel_tol=0.01, abs_tol=0.02):
            return False
    return bool(network.spans) and network.has_dist


def _beyond(value: object, most: float) -> bool:
    number = number_of(value)
    return number is not None and abs(number) > most


def json_kind(value: object) -> str:
    """What a JSON value is, for a sentence."""
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", int: "a number",
                              float: "a number"}
    return kinds.get(type(value), "null")


def unreadable(file: str, reason: object) -> MapError:
    """The error for a file that is not in the format that it seems to have."""
    sentence = " ".join(str(reason).split())
    if "int_max_str_digits" in sentence:
        sentence = "a number in it has more than 4300 digits"
    return MapError([f"{file}: cannot be read as a network: {sentence}"])


def number_of(value: object) -> float | None:
    """A number, also one written as text with a point and no unit; None if it is none."""
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    return float(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None
