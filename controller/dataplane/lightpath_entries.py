"""A lightpath in the data plane: a VLAN cross-connect, with the VLAN id in the role of the channel.

The first switch pushes the tag in each flow's own entry. Every intermediate switch matches only ingress port and VLAN
id, so its table grows with lightpaths and not with flows. The last switch pops the tag and forwards by flow again. Two
lightpaths on one link have different channels, hence different VLAN ids.

Frames of protected flows on their working path carry a second VLAN id in the same lightpath, PROTECTED_OFFSET above the
plain one. For it every intermediate switch has a fast-failover group: onward, or else back with a third id,
CRANKBACK_OFFSET above the plain one, over the same fibres to the start of the lightpath. Frames of unprotected flows
keep the plain id, because no capacity is booked for them in reverse.
"""

from __future__ import annotations

from itertools import pairwise

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import (
    IN_PORT,
    LIGHTPATH_GROUPS,
    VLAN,
    VLAN_PRESENT,
    Action,
    Bucket,
    FlowEntry,
    GroupEntry,
    cookie_of,
    match_of,
)
from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from topologies.maps import SLOTS_PER_CHANNEL

LIGHTPATH_PRIORITY = 310
LIGHTPATH_EXIT_TABLE = 2
"""The table for flows that leave a lightpath, at its end or cranked back at its start."""

PROTECTED_OFFSET = 0x400
CRANKBACK_OFFSET = 0x800
"""Above every plain id: there are at most 660 slots."""

CHANNEL_BITS = {"C": 7, "C+L": 8}
"""Of the 13 bits for fibre and channel."""


@frozen
class LightpathUse:
    """A lightpath; `with_crankback`: its additional entries for protected flows."""

    lightpath: Lightpath
    with_crankback: bool = False

    def __hash__(self) -> int:
        return hash(self.lightpath.id)


def push_tag(lightpath: Lightpath) -> tuple[Action, ...]:
    """The actions that put an untagged frame into the lightpath."""
    return _push(_plain_vid(lightpath))


def push_crankback_tag(lightpath: Lightpath) -> tuple[Action, ...]:
    """The actions that put an untagged frame into the crankback direction of the lightpath."""
    return _push(_plain_vid(lightpath) + CRANKBACK_OFFSET)


def _push(vlan_vid: int) -> tuple[Action, ...]:
    return ("push_vlan", VLAN), ("set_vlan_vid", vlan_vid)


def _plain_vid(lightpath: Lightpath) -> int:
    return VLAN_PRESENT | lightpath.vlan_id


def lightpath_entries(network: Network, lightpath: Lightpath) -> list[tuple[str, FlowEntry]]:
    """The entries on its switches, from the last back to the second; the first needs none."""
    links = network.links_along(lightpath.nodes)
    vid = _plain_vid(lightpath)
    exit_entry = _exit_entry(lightpath, links[-1].destination, links[-1].destination_port, vid)
    transit = [
        _entry(lightpath, egress.source, ingress.destination_port, vid, ("output", egress.source_port))
        for ingress, egress in pairwise(links)
    ]
    return [exit_entry, *reversed(transit)]


def crankback_entries(network: Network, lightpath: Lightpath) -> list[tuple[str, FlowEntry | GroupEntry]]:
    """The entries for protected and for cranked-back frames, from its last switch back to its first."""
    links = network.links_along(lightpath.nodes)
    protected, cranked_back = _plain_vid(lightpath) + PROTECTED_OFFSET, _plain_vid(lightpath) + CRANKBACK_OFFSET
    entries: list[tuple[str, FlowEntry | GroupEntry]] = [
        _exit_entry(lightpath, links[-1].destination, links[-1].destination_port, protected)
    ]
    for ingress, egress in reversed(list(pairwise(links))):
        switch, in_port, out_port = egress.source, ingress.destination_port, egress.source_port
        group = lightpath_failover_group(network, switch, (lightpath, out_port), (lightpath, in_port), crankback=True)
        entries += [
            (switch, group),
            _entry(lightpath, switch, in_port, protected, ("group", group.group_id)),
            _entry(lightpath, switch, out_port, cranked_back, ("output", in_port)),
        ]
    return [*entries, _exit_entry(lightpath, links[0].source, links[0].source_port, cranked_back)]


def _entry(
    lightpath: Lightpath, switch: str, in_port: int, vlan_vid: int, action: Action, goto: int | None = None
) -> tuple[str, FlowEntry]:
    match = match_of({"in_port": in_port, "vlan_vid": vlan_vid})
    return switch, FlowEntry(
        1, LIGHTPATH_PRIORITY, match, cookie_of(0, lightpath.cookie_tag), actions=(action,), goto=goto
    )


def _exit_entry(lightpath: Lightpath, switch: str, in_port: int, vlan_vid: int) -> tuple[str, FlowEntry]:
    return _entry(lightpath, switch, in_port, vlan_vid, ("pop_vlan", 0), LIGHTPATH_EXIT_TABLE)


def lightpath_failover_group(
    network: Network, switch: str, first: tuple[Lightpath, int], second: tuple[Lightpath, int], crankback: bool
) -> GroupEntry:
    """The group that sends tagged frames into the first (lightpath, port), or else into the second.

    `crankback`: the second is where the frame came from. The group id determines the content, so a group never changes.
    """
    channels = [_fibre_channel(network, switch, *end) for end in (first, second)]
    group_id = LIGHTPATH_GROUPS.start | crankback << 26 | channels[0] << 13 | channels[1]
    port, second_port = first[1], second[1]
    backup = Bucket(second_port, second_port, _plain_vid(second[0]))
    reverse = Bucket(second_port, IN_PORT, _plain_vid(second[0]) + CRANKBACK_OFFSET)
    return GroupEntry(
        group_id, (Bucket(port, port, _plain_vid(first[0]) + PROTECTED_OFFSET), reverse if crankback else backup)
    )


def _fibre_channel(network: Network, switch: str, lightpath: Lightpath, port: int) -> int:
    """Fibre and channel of a lightpath at a port, as 13 bits.

    Raises: ValueError if the lightpath does not start at a channel boundary, so belongs to another grid.
    """
    channel, rest = divmod(lightpath.first_slot, SLOTS_PER_CHANNEL[network.grid or "fixed"])
    if rest:
        raise ValueError(f"lightpath {lightpath.id} begins at slot {lightpath.first_slot}, within a channel")
    return _fibre_numbers(network, switch)[port] << CHANNEL_BITS[network.band] | channel


@bounded_cache(2 * MIB, entry_bytes=2048)
def _fibre_numbers(network: Network, switch: str) -> dict[int, int]:
    """A number from 0 up for each port that leads to a switch."""
    ports = [link.source_port for link in network.links_from(switch) if network.nodes[link.destination].is_switch]
    return {port: number for number, port in enumerate(sorted(ports))}
