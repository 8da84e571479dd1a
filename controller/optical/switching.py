"""A lightpath in the data plane: a VLAN id that stands for its channel.

The first switch pushes it, behind each flow's own entry (controller.protection); every switch on the way looks at the
port and the VLAN id and at nothing else, so its table grows with lightpaths and not with flows; the last switch takes
it off and sees flows again. Two lightpaths on one link have different channels, hence different VLAN ids.
"""

from __future__ import annotations

from itertools import pairwise

from controller.entries import VLAN, VLAN_PRESENT, Action, FlowEntry, cookie_of, match_of
from controller.network import Network
from controller.optical.lightpaths import Lightpath

LIGHT_PRIORITY = 310
AFTER_LIGHT = 2
"""The table that sees the flows that came out of a lightpath."""


def colour(lightpath: Lightpath) -> tuple[Action, ...]:
    """What makes an untagged frame one of the lightpath's."""
    return ("push_vlan", VLAN), ("set_vlan_vid", VLAN_PRESENT | lightpath.label)


def switched(network: Network, lightpath: Lightpath) -> list[tuple[str, FlowEntry]]:
    """(switch, entry), from its last switch back to the second; the first needs none."""
    links = network.links_along(lightpath.nodes)
    vlan = VLAN_PRESENT | lightpath.label

    def entry(switch: str, in_port: int, actions: tuple[Action, ...], goto: int | None) -> tuple[str, FlowEntry]:
        match = match_of({"in_port": in_port, "vlan_vid": vlan})
        return switch, FlowEntry(1, LIGHT_PRIORITY, match, cookie_of(0, lightpath.mark), actions=actions, goto=goto)

    end = entry(links[-1].destination, links[-1].destination_port, (("pop_vlan", 0),), AFTER_LIGHT)
    between = [
        entry(link.source, before.destination_port, (("output", link.source_port),), None)
        for before, link in pairwise(links)
    ]
    return [end, *reversed(between)]
