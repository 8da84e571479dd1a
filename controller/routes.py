"""Where a flow goes, and where instead when a span of that is down: which links it takes then, and which walk.

A path starts and ends at a host. A protected flow has a backup path from its first switch to its last that shares no
span with the path. When a span fails, the switch before it sends the packets back the way they came to the first
switch, from where they take the backup path; a while later the first switch sends them there at once. A host's own
link has no second: it is not protected.

Backups that no single failure needs together share their capacity ("shared mesh" in the terms of RFC 4427).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

Path = tuple[str, ...]

NEVER: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Route:
    """A path and, of a protected flow that has something to lose, the backup path."""

    path: Path
    backup: Path | None = None


def link_names(path: Path) -> tuple[str, ...]:
    """The directed links along a path of nodes."""
    return tuple(f"{a}->{b}" for a, b in pairwise(path))


def span_name(a: str, b: str) -> str:
    """Both directions of a link between two nodes, under one name."""
    return f"{a}-{b}" if a < b else f"{b}-{a}"


def spans_of(path: Path) -> tuple[str, ...]:
    """The spans between the switches of a path, in order; those to the hosts are not among them."""
    return tuple(span_name(a, b) for a, b in pairwise(path[1:-1]))


def links_taken(route: Route) -> tuple[tuple[str, frozenset[str]], ...]:
    """Every directed link on which the flow needs room, and the failures under which; none named: always."""
    always = tuple((link, NEVER) for link in link_names(route.path))
    if route.backup is None:
        return always
    spans = spans_of(route.path)
    switches = route.path[1:-1]
    # A packet that meets failure i has come over the spans before i, and goes back over them.
    back = tuple(
        (f"{switches[i + 1]}->{switches[i]}", frozenset(spans[i + 1 :])) for i in range(len(spans) - 1)
    )
    around = tuple((link, frozenset(spans)) for link in link_names(route.backup[1:-1]))
    return (*always, *back, *around)


def walk_under(route: Route, failure: str) -> Path:
    """The nodes a packet visits while that span is down and the first switch has not been told: to it, back, around.

    Raises: ValueError if the route has no backup or does not cross the span.
    """
    if route.backup is None:
        raise ValueError(f"{route.path} has no backup")
    turn = spans_of(route.path).index(failure)
    switches = route.path[1:-1]
    return (route.path[0], *switches[: turn + 1], *reversed(switches[:turn]), *route.backup[2:])


def both_ways(down: Collection[str]) -> frozenset[str]:
    """The directed links that are of no use when these are down: a span that fails in one direction has failed."""
    return frozenset(down) | {f"{b}->{a}" for a, b in (link.split("->") for link in down)}


def is_cut(path: Path, down: Collection[str]) -> bool:
    """Whether a link of the path is among those that are down."""
    return any(link in down for link in link_names(path))
