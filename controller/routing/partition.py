"""Which spans that are down separate two hosts, and the refusal that names them."""

from __future__ import annotations

from collections.abc import Collection

from controller.domain.network import Network
from controller.domain.route import with_reverse_links
from controller.errors import NoPath


def no_path(network: Network, flow: str, source: str, destination: str, down: frozenset[str]) -> NoPath:
    """The refusal of a flow between hosts that no path of links that are up joins."""
    spans = separating_spans(network, source, destination, down)
    reason = f": {_listed(spans)} {'is' if len(spans) == 1 else 'are'} down" if spans else ""
    return NoPath(f"{flow}: no path from {source} to {destination}{reason}.", flow=flow, down=list(spans))


def separating_spans(network: Network, source: str, destination: str, down: frozenset[str]) -> tuple[str, ...]:
    """The fewest spans that are down around one of two hosts, such that every path crosses one; none if one is up.

    They are around the part of the network that the source reaches, or around that of the destination.
    """
    down = with_reverse_links(down)
    around_source = _reached(network, source, down)
    if destination in around_source:
        return ()
    parts = around_source, _reached(network, destination, down)
    forwarding = {switch.name for switch in network.switches} | {source, destination}
    cuts = [_boundary(network, part, down, forwarding) for part in parts]
    return min((cut for cut in cuts if cut), key=len, default=())


def _reached(network: Network, host: str, down: frozenset[str]) -> frozenset[str]:
    """The nodes that a host reaches over links that are up; other hosts do not forward."""
    reached, frontier = {host}, [host]
    while frontier:
        node = frontier.pop()
        if node != host and not network.nodes[node].is_switch:
            continue
        for link in network.links_from(node):
            if link.name not in down and link.destination not in reached:
                reached.add(link.destination)
                frontier.append(link.destination)
    return frozenset(reached)


def _boundary(
    network: Network, part: frozenset[str], down: frozenset[str], forwarding: Collection[str]
) -> tuple[str, ...]:
    """The spans that are down between a part of the network and the rest, at both ends of which a path can continue."""
    spans = {
        link.span
        for link in (network.links[name] for name in down if name in network.links)
        if (link.source in part) != (link.destination in part)
        and link.source in forwarding and link.destination in forwarding
    }
    return tuple(sorted(spans))


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
