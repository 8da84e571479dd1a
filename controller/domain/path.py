"""A path; names of its links (one direction) and spans (both directions).

A path is the nodes in order. Two nodes may have several spans: the first is named `a-b`, the others `a-b.2`, `a-b.3` in
the order of the map. A path that crosses one of the others has its name between the two nodes: a, a-b.2, b. Reversed,
this is the path in the opposite direction. In a graph with a node for each of these names, the algorithms for simple
graphs find all paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from sys import intern

from controller.caches import MIB, bounded_cache

Path = tuple[str, ...]

_PARALLEL = "."
"""In the name of a span: before its number. Names of nodes have none."""


def link_name(a: str, b: str, number: int = 1) -> str:
    """Return the name of the directed link from `a` to `b` on their so-and-so-many-th span, interned.

    Interned, so that dictionary look-ups compare identities, not characters; a decision does hundreds of them.
    """
    return intern(f"{a}->{b}" if number == 1 else f"{a}->{b}{_PARALLEL}{number}")


@bounded_cache(8 * MIB, entry_bytes=384)
def link_names(path: Path) -> tuple[str, ...]:
    """Return the directed links along a path."""
    return tuple(link_name(hop[0], hop[-1], _number(hop[1]) if len(hop) == 3 else 1) for hop in hops_of(path))


def hops_of(path: Path) -> Iterator[Path]:
    """Yield the paths of one hop each that make up a path."""
    starts = node_positions(path)
    return (path[start : end + 1] for start, end in pairwise(starts))


@bounded_cache(8 * MIB, entry_bytes=384)
def node_positions(path: Path) -> tuple[int, ...]:
    """Return the positions of the nodes in a path; the names of spans are at the others."""
    return tuple(position for position, name in enumerate(path) if not is_parallel_span(name))


@bounded_cache(4 * MIB, entry_bytes=384)
def nodes_of(path: Path) -> Path:
    """Return the nodes of a path, without names of spans."""
    return tuple(path[position] for position in node_positions(path))


@bounded_cache(4 * MIB, entry_bytes=384)
def hop_count(path: Path) -> int:
    """Return the number of links of a path."""
    return max(0, len(node_positions(path)) - 1)


def is_parallel_span(name: str) -> bool:
    """Return whether an element of a path is the name of a span, not a node."""
    return _PARALLEL in name


def reverse_link(name: str) -> str:
    """Return the name of the opposite direction of a directed link."""
    a, _, rest = name.partition("->")
    b, _, number = rest.partition(_PARALLEL)
    return link_name(b, a, int(number or 1))


def span_name(a: str, b: str, number: int = 1) -> str:
    """Return the name that both directions of a link share."""
    ends = f"{a}-{b}" if a < b else f"{b}-{a}"
    return ends if number == 1 else f"{ends}{_PARALLEL}{number}"


def span_of_edge(a: str, b: str) -> str:
    """Return the span of two consecutive elements of a path: two nodes, or a node and the name of a span."""
    return next((name for name in (a, b) if is_parallel_span(name)), None) or span_name(a, b)


def spans_along(path: Path) -> tuple[str, ...]:
    """Return the spans along a path, in order."""
    return tuple(hop[1] if len(hop) == 3 else span_name(hop[0], hop[1]) for hop in hops_of(path))


def spans_of(path: Path) -> tuple[str, ...]:
    """Return the spans between the switches of a path, in order, without the access links of the hosts."""
    return spans_along(path[1:-1])


def _number(span: str) -> int:
    return int(span.rpartition(_PARALLEL)[2])
