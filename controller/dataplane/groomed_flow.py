"""One reserved flow on an optical network: it is seen where a lightpath begins or ends, and nowhere between.

The way of a protected flow with the path s1=s3=s6 in lightpaths A and B, and the backup s1=s6 in lightpath C:

    s1 from the host         -> group: A, or C
    within A and B           -> on, or back to where that lightpath begins; see switching.py
    s3 out of A              -> group: B, or back in A
    s3 turned back in B      -> back in A
    s1 turned back in A      -> C
    s6 out of B, or out of C -> the host

Where a packet came in says which of these it is, as on any map (`fast_failover`); within a lightpath its VLAN id
says so. So no packet can go in circles here either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from controller.dataplane.entries import VLAN, Action, FlowEntry, GroupEntry
from controller.dataplane.fast_failover import hold_apart, is_protected
from controller.dataplane.flow_label import LATE_DSCP, RESERVED_DSCP, Laid, Ways, hops
from controller.dataplane.lightpath_entries import AFTER_LIGHT, LightpathUse, colour, failover, turned
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.path import Path
from controller.domain.reservation import Placement

ANY_MARK = None
"""Out of a lightpath comes only what a first switch has let into it."""


@dataclass(frozen=True, slots=True)
class LightpathTraversal:
    """Where a lightpath of a protected flow's path begins: the ports in and out, and what is done if it is cut."""

    switch: str
    in_port: int
    out_port: int
    group: GroupEntry
    aside: tuple[Action, ...]

    @property
    def ahead(self) -> tuple[Action, ...]:
        """What is done with what is on its way."""
        return ("push_vlan", VLAN), ("group", self.group.group_id)


def light_of(placement: Placement) -> tuple[LightpathUse, ...]:
    """What must be lit for a flow: its lightpaths, and the ways back of those that a protected flow's path goes in."""
    lightpaths = (*placement.lightpaths, *placement.backup_lightpaths)
    back = placement.lightpaths if is_protected(placement) else ()
    return (*map(LightpathUse, lightpaths), *(LightpathUse(lightpath, with_way_back=True) for lightpath in back))


def traversals(network: Network, placement: Placement) -> tuple[LightpathTraversal, ...]:
    """Those of a protected flow, from its first switch on; none of a flow without a backup."""
    return _traversals(network, placement) if network.grid is not None and is_protected(placement) else ()


@lru_cache(maxsize=8192)
def _traversals(network: Network, placement: Placement) -> tuple[LightpathTraversal, ...]:
    before = {link.source: coming.destination_port for coming, link in hops(network, placement.path)}
    backup = placement.backup_lightpaths[0]
    around = _first_port(network, backup)
    found = []
    for number, lightpath in enumerate(placement.lightpaths):
        switch, out_port = lightpath.nodes[0], _first_port(network, lightpath)
        last = placement.lightpaths[number - 1] if number else None
        second = (backup, around) if last is None else (last, before[switch])
        group = failover(network, switch, (lightpath, out_port), second, turns_back=last is not None)
        tag = colour(backup) if last is None else turned(last)
        found.append(LightpathTraversal(switch, before[switch], out_port, group, (*tag, ("output", second[1]))))
    return tuple(found)


@lru_cache(maxsize=8192)
def laid_in_light(network: Network, placement: Placement, cookie: int, on_backup: bool) -> Laid:
    """What the tables of each switch hold for a flow, from the last switch back to the first.

    `on_backup`: the first switch sends it there at once; the rest of the path stays as it is. What is late of a flow
    with a window goes into its lightpaths, too, with its own mark.

    Raises: ValueError if backup and path share a link, where packets could go in circles (a bug in admission).
    """
    ways = Ways(network, placement, cookie)
    before, link = hops(network, placement.path)[0]
    if is_protected(placement):
        hold_apart(placement)
        start, *further = traversals(network, placement)
        rest = [
            *_behind_the_first(ways, placement.backup_path or (), placement.backup_lightpaths),
            *_to_the_host(ways, placement.path),
            *(entry for each in reversed(further) for entry in (_turned(ways, each), _ahead(ways, each))),
            _turned(ways, start),
        ]
        first = start.aside if on_backup else start.ahead
    else:
        rest = _behind_the_first(ways, placement.path, placement.lightpaths)
        first = _into(ways, placement.lightpaths[0]) if placement.lightpaths else ways.onward(link)
    marks = (RESERVED_DSCP,) if placement.window is None else (RESERVED_DSCP, LATE_DSCP)
    return (*rest, *(ways.entry(link.source, before.destination_port, first, dscp=mark) for mark in marks))


def _turned(ways: Ways, crossing: LightpathTraversal) -> tuple[str, FlowEntry]:
    """What comes back out of the lightpath that begins there."""
    return ways.entry(crossing.switch, crossing.out_port, crossing.aside, AFTER_LIGHT, ANY_MARK)


def _ahead(ways: Ways, crossing: LightpathTraversal) -> tuple[str, FlowEntry]:
    """What comes out of the lightpath that ends there."""
    return ways.entry(crossing.switch, crossing.in_port, crossing.ahead, AFTER_LIGHT, ANY_MARK)


def _behind_the_first(ways: Ways, path: Path, lightpaths: Sequence[Lightpath]) -> list[tuple[str, FlowEntry]]:
    """Out of the last lightpath to the host, and from each lightpath into the next, whatever is down."""
    before = {link.source: coming.destination_port for coming, link in hops(ways.network, path)}
    return [*_to_the_host(ways, path), *(
        ways.entry(each.nodes[0], before[each.nodes[0]], _into(ways, each), AFTER_LIGHT, ANY_MARK)
        for each in reversed(lightpaths[1:])
    )]  # fmt: skip


def _to_the_host(ways: Ways, path: Path) -> Laid:
    """Out of its last lightpath and on to the host; not where there is only one switch."""
    before, link = hops(ways.network, path)[-1]
    out = ways.entry(link.source, before.destination_port, ways.onward(link), AFTER_LIGHT, ANY_MARK)
    return (out,) if len(path) > 3 else ()


def _into(ways: Ways, lightpath: Lightpath) -> tuple[Action, ...]:
    return (*colour(lightpath), ("output", _first_port(ways.network, lightpath)))


def _first_port(network: Network, lightpath: Lightpath) -> int:
    return network.links[lightpath.links[0]].source_port
