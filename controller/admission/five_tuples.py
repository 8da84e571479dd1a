"""5-tuples of reserved flows, in which ports may be ranges, and an index of those by pair of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from immutables import Map

from controller.domain.ports import Ports, ports_overlap

FiveTuple = tuple[str, str, str, Ports, Ports]
HostPair = tuple[str, str, str]
"""Source, destination and protocol."""


def with_ports(ranges: Map[HostPair, frozenset[FiveTuple]], added: FiveTuple) -> Map[HostPair, frozenset[FiveTuple]]:
    """The index by pair of hosts with one 5-tuple more."""
    return ranges.set(added[:3], ranges.get(added[:3], frozenset()) | {added})


def without_ports(
    ranges: Map[HostPair, frozenset[FiveTuple]], removed: FiveTuple
) -> Map[HostPair, frozenset[FiveTuple]]:
    """The index by pair of hosts without this 5-tuple."""
    rest = ranges[removed[:3]] - {removed}
    return ranges.set(removed[:3], rest) if rest else ranges.delete(removed[:3])


def holders_of(
    holders: Mapping[FiveTuple, tuple[str, ...]], five_tuple: FiveTuple, candidates: Iterable[FiveTuple]
) -> tuple[str, ...]:
    """The holders of those of these 5-tuples that have packets in common with one."""
    names = {name for other in candidates if _overlap(five_tuple, other) for name in holders[other]}
    return tuple(sorted(names))


def _overlap(one: FiveTuple, other: FiveTuple) -> bool:
    return one[:3] == other[:3] and ports_overlap(one[3], other[3]) and ports_overlap(one[4], other[4])
