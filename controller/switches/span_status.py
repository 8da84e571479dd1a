"""Spans and ducts as those who run the network speak of them: by name, and in what state each is.

A span is `dark` when a switch at one of its ends says so, and `out_of_service` when somebody has asked for that: its
light may still be on, but nothing is sent over it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from controller.domain.events import SpanChanged
from controller.domain.network import DirectedLink, Network
from controller.domain.path import span_name
from controller.errors import NotFound

SpanState = Literal["up", "dark", "out_of_service"]


def spans_of_link(network: Network, name: str) -> frozenset[str]:
    """The span that a link is a direction of; `a->b`, `b->a`, `a-b` and `b-a` all name it.

    Raises: NotFound.
    """
    a, _, b = name.replace("->", "-").partition("-")
    span = span_name(a, b)
    if span not in network.spans:
        raise NotFound(f"There is no link {name!r}; the spans are {', '.join(sorted(network.spans))}.")
    return frozenset({span})


def spans_of_duct(network: Network, name: str) -> frozenset[str]:
    """All spans that lie in a duct.

    Raises: NotFound.
    """
    spans = frozenset(span for span, link in network.spans.items() if link.duct == name)
    if not spans:
        ducts = sorted({link.duct for link in network.spans.values() if link.duct})
        known = f"the ducts are {', '.join(ducts)}" if ducts else "the map has no ducts"
        raise NotFound(f"There is no duct {name!r}; {known}.")
    return spans


def span_states(network: Network, dark: Collection[str], closed: Collection[str]) -> dict[str, SpanState]:
    """The state of every span that is not up. `dark`: directed links without light; `closed`: spans out of service."""
    states: dict[str, SpanState] = dict.fromkeys((span for span in closed if span in network.spans), "out_of_service")
    return states | {network.links[link].span: "dark" for link in dark}


def links_of(network: Network, spans: Collection[str]) -> frozenset[str]:
    """Both directions of these spans."""
    return frozenset(link.name for link in network.links.values() if link.span in spans)


def changes(
    network: Network, before: Mapping[str, SpanState], after: Mapping[str, SpanState]
) -> list[SpanChanged]:
    """What is to be told of the spans whose state is another now, by name."""
    changed = [span for span in sorted({*before, *after}) if before.get(span) != after.get(span)]
    return [_change(network, network.spans[span], after) for span in changed]


def _change(network: Network, link: DirectedLink, after: Mapping[str, SpanState]) -> SpanChanged:
    whole = link.duct is not None and all(after.get(span) == "dark" for span in spans_of_duct(network, link.duct))
    return SpanChanged(link.span, link.length_km, link.duct, after.get(link.span, "up"), whole)
