"""Forwarding entries of a reserved flow over lightpaths: only switches at the ends of lightpaths have entries for it.

A protected flow with working path s1=s3=s6 in lightpaths A and B, and backup path s1=s6 in lightpath C:

    s1 from the host       -> group: A, or C
    within A and B         -> onward, or back to the start of that lightpath; see lightpath_entries.py
    s3 out of A            -> group: B, or back in A (crankback)
    s3 cranked back in B   -> back in A
    s1 cranked back in A   -> C
    s6 out of B or C       -> the host

The ingress port tells these cases apart, as without lightpaths (`fast_failover`); within a lightpath the VLAN id does.
Hence packets cannot loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import VLAN, Action, FlowEntry, GroupEntry
from controller.dataplane.fast_failover import is_protected, require_disjoint
from controller.dataplane.flow_label import LATE_DSCP, RESERVED_DSCP, FlowEntryFactory, PlacedEntries, flow_label, hops
from controller.dataplane.lightpath_entries import (
    LIGHTPATH_EXIT_TABLE,
    LightpathUse,
    lightpath_failover_group,
    push_crankback_tag,
    push_tag,
)
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.path import Path
from controller.domain.reservation import Placement

ANY_DSCP = None
"""Only packets that a first switch has classified come out of a lightpath."""


@dataclass(frozen=True, slots=True)
class LightpathTraversal:
    """The start of a lightpath on a protected flow's working path: ports, and the actions if the lightpath is cut."""

    switch: str
    in_port: int
    out_port: int
    group: GroupEntry
    failover_actions: tuple[Action, ...]

    @property
    def forward_actions(self) -> tuple[Action, ...]:
        """The actions on packets that arrive on the working path."""
        return ("push_vlan", VLAN), ("group", self.group.group_id)


def lightpath_uses(placement: Placement) -> tuple[LightpathUse, ...]:
    """The lightpaths of a flow, those on a protected flow's working path with crankback."""
    lightpaths = (*placement.lightpaths, *placement.backup_lightpaths)
    protected = placement.lightpaths if is_protected(placement) else ()
    return (*map(LightpathUse, lightpaths), *(LightpathUse(lightpath, with_crankback=True) for lightpath in protected))


def traversals(network: Network, placement: Placement) -> tuple[LightpathTraversal, ...]:
    """The lightpath traversals of a protected flow, from its first switch on; none for an unprotected flow."""
    return _traversals(network, placement) if network.grid is not None and is_protected(placement) else ()


@bounded_cache(4 * MIB, entry_bytes=2048)
def _traversals(network: Network, placement: Placement) -> tuple[LightpathTraversal, ...]:
    in_ports = _ingress_ports(network, placement.path)
    backup = placement.backup_lightpaths[0]
    backup_port = _first_port(network, backup)
    found = []
    for number, lightpath in enumerate(placement.lightpaths):
        switch, out_port = lightpath.nodes[0], _first_port(network, lightpath)
        previous = placement.lightpaths[number - 1] if number else None
        second = (backup, backup_port) if previous is None else (previous, in_ports[switch])
        group = lightpath_failover_group(network, switch, (lightpath, out_port), second, crankback=previous is not None)
        tag = push_tag(backup) if previous is None else push_crankback_tag(previous)
        found.append(LightpathTraversal(switch, in_ports[switch], out_port, group, (*tag, ("output", second[1]))))
    return tuple(found)


@bounded_cache(4 * MIB, entry_bytes=4096)
def groomed_forwarding_entries(network: Network, placement: Placement, cookie: int, on_backup: bool) -> PlacedEntries:
    """The entries of a flow in tables 1 and 2, from the last switch back to the first.

    `on_backup`: the first switch sends to the backup path at once; the rest of the working path stays. Late packets of
    a flow with a window enter its lightpaths too, with their own DSCP.

    Raises: ValueError if the two paths share a link, where packets could loop (a bug in admission).
    """
    factory = FlowEntryFactory(network, flow_label(network, placement), placement.flow.destination, cookie)
    ingress, egress = hops(network, placement.path)[0]
    if is_protected(placement):
        require_disjoint(placement)
        start, *further = traversals(network, placement)
        rest = [
            *_entries_behind_first(factory, placement.backup_path or (), placement.backup_lightpaths),
            *_exit_to_host(factory, placement.path),
            *(
                entry
                for traversal in reversed(further)
                for entry in (_crankback_entry(factory, traversal), _forward_entry(factory, traversal))
            ),
            _crankback_entry(factory, start),
        ]
        first = start.failover_actions if on_backup else start.forward_actions
    else:
        rest = _entries_behind_first(factory, placement.path, placement.lightpaths)
        first = _enter(factory, placement.lightpaths[0]) if placement.lightpaths else factory.output(egress)
    dscps = (RESERVED_DSCP,) if placement.window is None else (RESERVED_DSCP, LATE_DSCP)
    return (*rest, *(factory.entry(egress.source, ingress.destination_port, first, dscp=dscp) for dscp in dscps))


def _crankback_entry(factory: FlowEntryFactory, traversal: LightpathTraversal) -> tuple[str, FlowEntry]:
    """The entry for packets cranked back in the lightpath that starts there."""
    return factory.entry(
        traversal.switch, traversal.out_port, traversal.failover_actions, LIGHTPATH_EXIT_TABLE, ANY_DSCP
    )


def _forward_entry(factory: FlowEntryFactory, traversal: LightpathTraversal) -> tuple[str, FlowEntry]:
    """The entry for packets from the lightpath that ends there."""
    return factory.entry(traversal.switch, traversal.in_port, traversal.forward_actions, LIGHTPATH_EXIT_TABLE, ANY_DSCP)


def _entries_behind_first(
    factory: FlowEntryFactory, path: Path, lightpaths: Sequence[Lightpath]
) -> list[tuple[str, FlowEntry]]:
    """The entries behind the first lightpath: from the last one to the host, and from each into the next."""
    in_ports = _ingress_ports(factory.network, path)
    starts = [(lightpath, lightpath.nodes[0]) for lightpath in reversed(lightpaths[1:])]
    return [*_exit_to_host(factory, path), *(
        factory.entry(switch, in_ports[switch], _enter(factory, lightpath), LIGHTPATH_EXIT_TABLE, ANY_DSCP)
        for lightpath, switch in starts
    )]  # fmt: skip


def _exit_to_host(factory: FlowEntryFactory, path: Path) -> PlacedEntries:
    """The entry from the last lightpath to the host; none where both hosts are at one switch."""
    ingress, egress = hops(factory.network, path)[-1]
    port, actions = ingress.destination_port, factory.output(egress)
    entry = factory.entry(egress.source, port, actions, LIGHTPATH_EXIT_TABLE, ANY_DSCP)
    return (entry,) if len(path) > 3 else ()


def _ingress_ports(network: Network, path: Path) -> dict[str, int]:
    """The ingress port at each switch of a path."""
    return {egress.source: ingress.destination_port for ingress, egress in hops(network, path)}


def _enter(factory: FlowEntryFactory, lightpath: Lightpath) -> tuple[Action, ...]:
    return (*push_tag(lightpath), ("output", _first_port(factory.network, lightpath)))


def _first_port(network: Network, lightpath: Lightpath) -> int:
    return network.links[lightpath.links[0]].source_port
