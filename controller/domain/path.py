"""A path as a sequence of nodes; names of its links (one direction) and spans (both directions)."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from sys import intern

Path = tuple[str, ...]


def link_name(a: str, b: str) -> str:
    """Return the name of the directed link from `a` to `b`, interned.

    Interned, so that dictionary look-ups compare identities, not characters; a decision does hundreds of them.
    """
    return intern(f"{a}->{b}")


@lru_cache(maxsize=65_536)
def link_names(path: Path) -> tuple[str, ...]:
    """Return the directed links along a path of nodes."""
    return tuple(link_name(a, b) for a, b in pairwise(path))


def reverse_link(name: str) -> str:
    """Return the name of the opposite direction of a directed link."""
    a, b = name.split("->")
    return link_name(b, a)


def span_name(a: str, b: str) -> str:
    """Return the name that both directions of a link share."""
    return f"{a}-{b}" if a < b else f"{b}-{a}"


def spans_of(path: Path) -> tuple[str, ...]:
    """Return the spans between the switches of a path, in order, without the access links of the hosts."""
    return tuple(span_name(a, b) for a, b in pairwise(path[1:-1]))
