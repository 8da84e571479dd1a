"""A lightpath in the data plane: a VLAN id that stands for its channel.

The first switch pushes it, behind each flow's own entry (`fast_failover`); every switch on the way looks at the
port and the VLAN id and at nothing else, so its table grows with lightpaths and not with flows; the last switch takes
it off and sees flows again. Two lightpaths on one link have different channels, hence different VLAN ids.

Frames of protected flows on their path have another VLAN id in the same lightpath, TURNS above the plain one, for
which every switch on the way has a fast-failover group: on, or else back with a third id, TURNED above the plain one,
over the same fibres to where the lightpath begins. Frames of flows without a backup stay plain: nothing is booked for
them on the way back.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from controller.dataplane.entries import (
    IN_PORT,
    LIGHT_GROUPS,
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

LIGHT_PRIORITY = 310
AFTER_LIGHT = 2
"""The table that sees the flows that came out of a lightpath, at its end or turned back to its beginning."""

TURNS = 0x400
TURNED = 0x800
"""No plain id is as large: there are 384 slots at most."""


@frozen
class LightpathUse:
    """A lightpath; or, `with_way_back`, what is added to it for frames that turn where they cannot go on."""

    lightpath: Lightpath
    with_way_back: bool = False

    def __hash__(self) -> int:
        return hash(self.lightpath.id)


def colour(lightpath: Lightpath) -> tuple[Action, ...]:
    """What makes an untagged frame one of the lightpath's."""
    return _tag(_plain(lightpath))


def turned(lightpath: Lightpath) -> tuple[Action, ...]:
    """What makes an untagged frame one that has turned in the lightpath, or behind its end."""
    return _tag(_plain(lightpath) + TURNED)


def _tag(vlan_vid: int) -> tuple[Action, ...]:
    return ("push_vlan", VLAN), ("set_vlan_vid", vlan_vid)


def _plain(lightpath: Lightpath) -> int:
    return VLAN_PRESENT | lightpath.label


def switched(network: Network, lightpath: Lightpath) -> list[tuple[str, FlowEntry]]:
    """(switch, entry), from its last switch back to the second; the first needs none."""
    links = network.links_along(lightpath.nodes)
    end = _ends(lightpath, links[-1].destination, links[-1].destination_port, _plain(lightpath))
    between = [
        _entry(lightpath, link.source, before.destination_port, _plain(lightpath), ("output", link.source_port))
        for before, link in pairwise(links)
    ]
    return [end, *reversed(between)]


def switched_with_way_back(network: Network, lightpath: Lightpath) -> list[tuple[str, FlowEntry | GroupEntry]]:
    """(switch, entry) for frames that may turn and for those that have, from its last switch back to its first."""
    links = network.links_along(lightpath.nodes)
    turns, home = _plain(lightpath) + TURNS, _plain(lightpath) + TURNED
    found: list[tuple[str, FlowEntry | GroupEntry]] = [
        _ends(lightpath, links[-1].destination, links[-1].destination_port, turns)
    ]
    for before, link in reversed(list(pairwise(links))):
        switch, back = link.source, before.destination_port
        group = failover(network, switch, (lightpath, link.source_port), (lightpath, back), turns_back=True)
        found += [
            (switch, group),
            _entry(lightpath, switch, back, turns, ("group", group.group_id)),
            _entry(lightpath, switch, link.source_port, home, ("output", back)),
        ]
    return [*found, _ends(lightpath, links[0].source, links[0].source_port, home)]


def _entry(
    lightpath: Lightpath, switch: str, in_port: int, vlan_vid: int, action: Action, goto: int | None = None
) -> tuple[str, FlowEntry]:
    match = match_of({"in_port": in_port, "vlan_vid": vlan_vid})
    return switch, FlowEntry(1, LIGHT_PRIORITY, match, cookie_of(0, lightpath.mark), actions=(action,), goto=goto)


def _ends(lightpath: Lightpath, switch: str, in_port: int, vlan_vid: int) -> tuple[str, FlowEntry]:
    return _entry(lightpath, switch, in_port, vlan_vid, ("pop_vlan", 0), AFTER_LIGHT)


def failover(
    network: Network, switch: str, first: tuple[Lightpath, int], second: tuple[Lightpath, int], turns_back: bool
) -> GroupEntry:
    """The group that sends tagged frames into one lightpath by a port, or else into another by another.

    `turns_back`: the second is where the frame came from. Its number says all of its content, so a group never changes.
    """
    ends = [_end(network, switch, *each) for each in (first, second)]
    group_id = LIGHT_GROUPS.start | turns_back << 26 | ends[0] << 13 | ends[1]
    port, second_port = first[1], second[1]
    around = Bucket(second_port, second_port, _plain(second[0]))
    back = Bucket(second_port, IN_PORT, _plain(second[0]) + TURNED)
    return GroupEntry(group_id, (Bucket(port, port, _plain(first[0]) + TURNS), back if turns_back else around))


def _end(network: Network, switch: str, lightpath: Lightpath, port: int) -> int:
    """A channel on a fibre, as 13 bits.

    Raises: ValueError if the lightpath begins within a channel: then it is of another grid.
    """
    channel, rest = divmod(lightpath.first_slot, SLOTS_PER_CHANNEL[network.grid or "fixed"])
    if rest:
        raise ValueError(f"lightpath {lightpath.id} begins at slot {lightpath.first_slot}, within a channel")
    return _fibres(network, switch)[port] << 7 | channel


@lru_cache(maxsize=4096)
def _fibres(network: Network, switch: str) -> dict[int, int]:
    """A number from 0 up for each port that leads to a switch."""
    ports = [link.source_port for link in network.links_from(switch) if network.nodes[link.destination].is_switch]
    return {port: number for number, port in enumerate(sorted(ports))}
