"""The way of one reserved flow through table 1, and the way it takes by itself when a link of it goes down.

The first switch writes a label into the destination address: it names first switch, meter and version, so no two
flows, and no two versions of one flow, ever share an entry. A flow is moved to another path by laying that path under
the new version's label and then changing one entry at the first switch; every packet sees one path or the other, whole.
The last switch puts the host's address back.

A protected flow crosses its path from group to group. With primary s1-s2-s3-s4 and backup s1-b-s4:

    s1 from the host    -> group: s2, or b
    s2 from s1          -> group: s3, or back to s1          (crankback)
    s3 from s2          -> group: s4, or back to s2
    s2 from s3, s1 from s2: has been turned back             -> s1, and there to b
    b from s1, s4 from b                                     -> the destination

Where a packet came in says which of these it is: primary and backup share no link, and the way back uses the primary's
links the other way round. So no packet can go in circles, whatever is up or down: the primary is left at most once,
the way back leads only to s1, and the backup is never left. All of it happens in the switches, with no controller.

Source: Reitblat et al., "Abstractions for Network Update", SIGCOMM 2012 (per-packet consistency by version); van
Adrichem, van Asten and Kuipers, "Fast Recovery in Software-Defined Networks", EWSDN 2014 (fast-failover, crankback).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, permutations

from controller.dataplane.entries import IN_PORT, LINE_GROUPS, Bucket, GroupEntry
from controller.dataplane.flow_label import Laid, Ways, hops
from controller.domain.network import Network
from controller.domain.path import spans_of
from controller.domain.reservation import Placement


def is_protected(placement: Placement) -> bool:
    """Whether it has a backup, and links between switches that it could need it for."""
    return placement.backup_path is not None and len(placement.switches) > 1


def active_path(placement: Placement, down: frozenset[str]) -> tuple[str, ...] | None:
    """The path on which its packets arrive with these links down; None if there is none."""
    for path in (placement.path, placement.backup_path):
        if path is not None and not broken(path, down):
            return path
    return None


def broken(path: tuple[str, ...], down: frozenset[str]) -> bool:
    """Whether a link of a path is down; what is down in one direction is of no use in the other."""
    return bool(down) and any(
        f"{a}->{b}" in down or f"{b}->{a}" in down for a, b in pairwise(path)
    )


@lru_cache(maxsize=8192)
def laid(network: Network, placement: Placement, cookie: int, on_backup: bool) -> Laid:
    """What table 1 of each switch holds for a flow, from the last switch back to the first.

    `on_backup`: the first switch sends it there at once; the rest of the primary stays as it is.

    Raises: ValueError if backup and primary share a link, where packets could go in circles (a bug in admission).
    """
    along = hops(network, placement.path)
    ways = Ways(network, placement, cookie)
    if not is_protected(placement):
        return tuple(ways.forward(before, link) for before, link in reversed(along))
    backup = hops(network, placement.backup_path or ())
    hold_apart(placement)
    aside = backup[0][1]
    entries = [ways.forward(*along[-1])]
    for before, link in reversed(along[:-1]):
        first = link.source == placement.switches[0]
        second_port = aside.source_port if first else before.destination_port
        if link.destination != placement.switches[-1]:  # that one turns nothing back
            entries.append(ways.entry(link.source, link.source_port, (("output", second_port),)))
        if first and on_backup:
            entries.append(ways.forward(before, aside))
            continue
        group = failover_group(link.source_port, second_port, turns_back=not first)
        entries.append(ways.entry(link.source, before.destination_port, (("group", group.group_id),)))
    further = [ways.forward(before, link) for before, link in reversed(backup[1:])]
    return (*further, *entries)


def hold_apart(placement: Placement) -> None:
    """Make sure that no packet can go in circles.

    Raises: ValueError if backup and primary share a link (a bug in admission).
    """
    if shared := {*spans_of(placement.path)} & {*spans_of(placement.backup_path or ())}:
        raise ValueError(f"the backup of {placement.flow.name} shares {shared} with its primary")


def failover_groups(network: Network, switch: str) -> list[GroupEntry]:
    """All groups that any flow could need at a switch: they stand before the first flow comes, and flows share them."""
    ports = [link.source_port for link in network.links_from(switch) if network.nodes[link.destination].is_switch]
    return [failover_group(*pair, turns_back) for pair in permutations(ports, 2) for turns_back in (False, True)]


def failover_group(port: int, second_port: int, turns_back: bool) -> GroupEntry:
    """The group that sends out of a port, or else out of another; `turns_back`: that is where the packet came from.

    Its number says all of its content, so a group never changes.
    """
    group_id = LINE_GROUPS.start | turns_back << 24 | port << 12 | second_port
    return GroupEntry(
        group_id, (Bucket(port, port), Bucket(second_port, IN_PORT if turns_back else second_port))
    )
