"""A path as a row of nodes, and what its links (one direction) and spans (both) are called."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from sys import intern

Path = tuple[str, ...]


def link_name(a: str, b: str) -> str:
    """The directed link from one node to another; a link's name is the same object wherever it is used.

    So a dictionary finds it without comparing letters, which every decision has done hundreds of times.
    """
    return intern(f"{a}->{b}")


@lru_cache(maxsize=65_536)
def link_names(path: Path) -> tuple[str, ...]:
    """The directed links along a path of nodes."""
    return tuple(link_name(a, b) for a, b in pairwise(path))


def span_name(a: str, b: str) -> str:
    """Both directions of a link between two nodes, under one name."""
    return f"{a}-{b}" if a < b else f"{b}-{a}"


def spans_of(path: Path) -> tuple[str, ...]:
    """The spans between the switches of a path, in order; those to the hosts are not among them."""
    return tuple(span_name(a, b) for a, b in pairwise(path[1:-1]))
