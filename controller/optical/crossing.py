"""One reserved flow on an optical network: it is seen where a lightpath begins or ends, and nowhere between.

The way of a protected flow with the path s1=s3=s6 in lightpaths A and B, and the backup s1=s6 in lightpath C:

    s1 from the host         -> group: A, or C
    within A and B           -> on, or back to where that lightpath begins; see switching.py
    s3 out of A              -> group: B, or back in A
    s3 turned back in B      -> back in A
    s1 turned back in A      -> C
    s6 out of B, or out of C -> the host

Where a packet came in says which of these it is, as on any map (controller.protection); within a lightpath its VLAN id
says so. So no packet can go in circles here either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from controller.entries import VLAN, Action, FlowEntry, GroupEntry
from controller.network import Network
from controller.optical.lightpaths import Lightpath
from controller.optical.switching import AFTER_LIGHT, Lit, colour, failover, turned
from controller.protection import hold_apart, is_protected
from controller.reservation import Placement
from controller.ways import Laid, Ways, hops


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a lightpath of a protected flow's path begins: the ports in and out, and what is done if it is cut."""

    switch: str
    in_port: int
    out_port: int
    group: GroupEntry
    aside: tuple[Action, ...]


def light_of(placement: Placement) -> tuple[Lit, ...]:
    """What must be lit for a flow: its lightpaths, and the ways back of those that a protected flow's path goes in."""
    lightpaths = (*placement.lightpaths, *placement.backup_lightpaths)
    back = placement.lightpaths if is_protected(placement) else ()
    return (*map(Lit, lightpaths), *(Lit(lightpath, with_way_back=True) for lightpath in back))


@lru_cache(maxsize=65536)
def crossings(network: Network, placement: Placement) -> tuple[Crossing, ...]:
    """Those of a protected flow, from its first switch on; none of a flow without a backup."""
    if network.grid is None or not is_protected(placement):
        return ()
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
        found.append(Crossing(switch, before[switch], out_port, group, (*tag, ("output", second[1]))))
    return tuple(found)


@lru_cache(maxsize=65536)
def laid_in_light(network: Network, placement: Placement, cookie: int, on_backup: bool) -> Laid:
    """What the tables of each switch hold for a flow, from the last switch back to the first.

    `on_backup`: the first switch sends it there at once; the rest of the path stays as it is.

    Raises: ValueError if backup and path share a link, where packets could go in circles (a bug in admission).
    """
    ways = Ways(network, placement, cookie)
    if not is_protected(placement):
        entry, link = hops(network, placement.path)[0]
        light = placement.lightpaths
        first = _enter(ways, entry.destination_port, light[0]) if light else ways.forward(entry, link)
        return (*_to_the_host(ways, placement.path), *_on(ways, placement.path, light), first)
    hold_apart(placement)
    backup = placement.backup_path or ()
    entries = [
        *_to_the_host(ways, backup), *_on(ways, backup, placement.backup_lightpaths),
        *_to_the_host(ways, placement.path),
    ]  # fmt: skip
    first_switch = placement.switches[0]
    for each in reversed(crossings(network, placement)):
        entries.append(ways.entry(each.switch, each.out_port, each.aside, AFTER_LIGHT))
        is_first = each.switch == first_switch
        ahead: tuple[Action, ...] = (("push_vlan", VLAN), ("group", each.group.group_id))
        taken = each.aside if is_first and on_backup else ahead
        entries.append(ways.entry(each.switch, each.in_port, taken, 1 if is_first else AFTER_LIGHT))
    return tuple(entries)


def _to_the_host(ways: Ways, path: tuple[str, ...]) -> Laid:
    """Out of its last lightpath and on to the host; not where there is only one switch."""
    *_, last = hops(ways.network, path)
    return (ways.forward(*last, table=AFTER_LIGHT),) if len(path) > 3 else ()


def _on(ways: Ways, path: tuple[str, ...], lightpaths: Sequence[Lightpath]) -> Laid:
    """From each lightpath into the next, whatever is down."""
    before = {link.source: coming.destination_port for coming, link in hops(ways.network, path)}
    return tuple(_enter(ways, before[each.nodes[0]], each, AFTER_LIGHT) for each in reversed(lightpaths[1:]))


def _enter(ways: Ways, in_port: int, lightpath: Lightpath, table: int = 1) -> tuple[str, FlowEntry]:
    out: Action = ("output", _first_port(ways.network, lightpath))
    return ways.entry(lightpath.nodes[0], in_port, (*colour(lightpath), out), table)


def _first_port(network: Network, lightpath: Lightpath) -> int:
    return network.links[lightpath.links[0]].source_port
