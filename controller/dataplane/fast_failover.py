"""Forwarding entries of a reserved flow on its working path, and fast failover to its backup path.

The first switch writes a label into the destination address. It identifies first switch, meter and version, so no two
flows, and no two versions of a flow, share an entry. To move a flow, its new path is installed under the new version's
label, then one entry at the first switch is changed: every packet takes either the old or the new path as a whole. The
last switch restores the host's address.

A protected flow crosses its working path by fast-failover groups. With working path s1-s2-s3-s4 and backup s1-b-s4:

    s1 from the host                      -> group: s2, or b
    s2 from s1                            -> group: s3, or back to s1 (crankback)
    s3 from s2                            -> group: s4, or back to s2 (crankback)
    s2 from s3, s1 from s2 (cranked back) -> s1, and there to b
    b from s1, s4 from b                  -> the destination

The ingress port tells these cases apart: the two paths share no link, and crankback uses the links of the working path
in reverse. Hence packets cannot loop, whatever is up or down: they leave the working path at most once, crankback leads
only to s1, and they never leave the backup path. The switches do all this without the controller.

Source: Reitblat et al., "Abstractions for Network Update", SIGCOMM 2012 (per-packet consistency by version); van
Adrichem, van Asten and Kuipers, "Fast Recovery in Software-Defined Networks", EWSDN 2014 (fast-failover, crankback).
"""

from __future__ import annotations

from itertools import permutations

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import IN_PORT, PORT_PAIR_GROUPS, Bucket, GroupEntry
from controller.dataplane.flow_label import FlowEntryFactory, PlacedEntries, flow_label, hops
from controller.domain.network import DirectedLink, Network
from controller.domain.path import Path, spans_of
from controller.domain.reservation import Placement
from controller.domain.route import is_cut

Hop = tuple[DirectedLink, DirectedLink]
"""Ingress and egress link of a switch."""


def is_protected(placement: Placement) -> bool:
    """Whether the flow has a backup path and a link between switches to protect."""
    return placement.backup_path is not None and len(placement.switches) > 1


def active_path(placement: Placement, down: frozenset[str]) -> tuple[str, ...] | None:
    """The path on which packets arrive with these links down; None if both paths are cut."""
    for path in (placement.path, placement.backup_path):
        if path is not None and not is_broken(path, down):
            return path
    return None


def is_broken(path: tuple[str, ...], down: frozenset[str]) -> bool:
    """Whether a link of a path is down; a link that is down in one direction is unusable in both."""
    return bool(down) and (is_cut(path, down) or is_cut(path[::-1], down))


def forwarding_entries(
    network: Network, placement: Placement, cookie: int, on_backup: bool = False
) -> PlacedEntries:
    """The table 1 entries of a flow, from the last switch back to the first.

    `on_backup`: the first switch sends to the backup path at once; the rest of the working path stays.

    Raises: ValueError if the two paths share a link, where packets could loop (a bug in admission).
    """
    if is_protected(placement):
        return _protected_entries(network, placement, cookie, on_backup)
    label, destination = flow_label(network, placement), placement.flow.destination
    return _unprotected_entries(network, placement.path, label, destination, cookie)


@bounded_cache(2 * MIB, entry_bytes=4096)
def _unprotected_entries(
    network: Network, path: Path, label: str, destination: str, cookie: int
) -> PlacedEntries:
    """The entries along one path: the same as long as the flow keeps its label, whatever its rate and its bounds."""
    factory = FlowEntryFactory(network, label, destination, cookie)
    return tuple([factory.forward(ingress, egress) for ingress, egress in reversed(hops(network, path))])


@bounded_cache(2 * MIB, entry_bytes=4096)
def _protected_entries(network: Network, placement: Placement, cookie: int, on_backup: bool) -> PlacedEntries:
    working = hops(network, placement.path)
    factory = FlowEntryFactory(network, flow_label(network, placement), placement.flow.destination, cookie)
    backup = hops(network, placement.backup_path or ())
    require_disjoint(placement)
    if placement.is_seamless:
        return _seamless_entries(factory, working, backup, on_backup)
    backup_link = backup[0][1]
    entries = [factory.forward(*working[-1])]
    for ingress, egress in reversed(working[:-1]):
        is_first = egress.source == placement.switches[0]
        second_port = backup_link.source_port if is_first else ingress.destination_port
        if egress.destination != placement.switches[-1]:  # the last switch sends nothing back
            entries.append(factory.entry(egress.source, egress.source_port, (("output", second_port),)))
        if is_first and on_backup:
            entries.append(factory.forward(ingress, backup_link))
            continue
        group = failover_group(egress.source_port, second_port, crankback=not is_first)
        entries.append(factory.entry(egress.source, ingress.destination_port, (("group", group.group_id),)))
    behind_first = [factory.forward(ingress, egress) for ingress, egress in reversed(backup[1:])]
    return (*behind_first, *entries)


def _seamless_entries(
    factory: FlowEntryFactory, working: tuple[Hop, ...], backup: tuple[Hop, ...], on_backup: bool
) -> PlacedEntries:
    """The entries of a flow of which every packet takes both paths; the receiver gets both, and drops the second.

    The first switch sends out of both ports. `on_backup`: only to the backup path, while the working path is cut.
    Source: IEEE 802.1CB-2017 §7.2.2 (stream splitting).
    """
    ingress, first = working[0]
    both = factory.output(backup[0][1]) if on_backup else factory.output(first) + factory.output(backup[0][1])
    behind_first = [factory.forward(*hop) for path in (working, backup) for hop in reversed(path[1:])]
    return (*behind_first, factory.entry(first.source, ingress.destination_port, both))


def require_disjoint(placement: Placement) -> None:
    """Check that packets cannot loop.

    Raises: ValueError if the working and the backup path share a link (a bug in admission).
    """
    if shared := {*spans_of(placement.path)} & {*spans_of(placement.backup_path or ())}:
        raise ValueError(f"the backup of {placement.flow.name} shares {shared} with its working path")


def failover_groups(network: Network, switch: str) -> list[GroupEntry]:
    """All groups that any flow could need at a switch; installed in advance and shared by the flows."""
    ports = [link.source_port for link in network.links_from(switch) if network.nodes[link.destination].is_switch]
    return [failover_group(*pair, crankback) for pair in permutations(ports, 2) for crankback in (False, True)]


def failover_group(port: int, second_port: int, crankback: bool) -> GroupEntry:
    """The group that sends out of a port, or else out of another; `crankback`: the second is the ingress port.

    The group id determines the content, so a group never changes.
    """
    group_id = PORT_PAIR_GROUPS.start | crankback << 24 | port << 12 | second_port
    return GroupEntry(
        group_id, (Bucket(port, port), Bucket(second_port, IN_PORT if crankback else second_port))
    )
