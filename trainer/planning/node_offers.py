"""Offers of the network towards several nodes of the cloud as one offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from trainer.planning.plan import Offer

LAST_LINKS = "last links"
"""The links to all nodes of the cloud together: no link of a map has a space in its name."""

Paths = Mapping[str, tuple[str, ...]]


def offer_for(nodes: Mapping[str, str], offers: Mapping[str, Offer]) -> Offer:
    """Return the offer for edges that are each served at their node of `nodes`."""
    return Offer(
        {edge: offers[node].up_links[edge] for edge, node in nodes.items()},
        {edge: offers[node].down_links[edge] for edge, node in nodes.items()},
        _usable_bps(offers[node] for node in dict.fromkeys(nodes.values())),
        max(offer.floor_bps for offer in offers.values()),
    )


def common_offer(edges: Sequence[str], offers: Mapping[str, Offer]) -> Offer:
    """Return an offer with which any plan for any nodes of the edges is possible, too.

    An edge has the links that all its paths share. Each of its paths ends with a link to its node, so the bits of all
    edges are at most what these links carry together.
    """
    towards = list(offers.values())
    if len(towards) == 1:
        return towards[0]
    up = {edge: [offer.up_links[edge] for offer in towards] for edge in edges}
    down = {edge: [offer.down_links[edge] for offer in towards] for edge in edges}
    usable_bps = _usable_bps(towards)
    last = {path[-1] for paths in up.values() for path in paths}
    first = {path[0] for paths in down.values() for path in paths}
    return Offer(
        {edge: (*_shared(paths), f"{LAST_LINKS} up") for edge, paths in up.items()},
        {edge: (*_shared(paths), f"{LAST_LINKS} down") for edge, paths in down.items()},
        {**usable_bps, f"{LAST_LINKS} up": sum(usable_bps[link] for link in last),
         f"{LAST_LINKS} down": sum(usable_bps[link] for link in first)},
        min(offer.floor_bps for offer in towards),
    )


def _shared(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(link for link in paths[0] if all(link in path for path in paths[1:]))


def _usable_bps(offers: Iterable[Offer]) -> dict[str, float]:
    usable_bps: dict[str, float] = {}
    for offer in offers:
        for link, rate_bps in offer.usable_bps.items():
            usable_bps[link] = min(rate_bps, usable_bps.get(link, rate_bps))
    return usable_bps
