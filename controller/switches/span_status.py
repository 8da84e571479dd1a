"""Spans and ducts by name, and the state of each.

A span is `dark` when a switch at either end reports it as down, and `out_of_service` when an operator has requested
that: the span may still be lit, but it carries no traffic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from controller.domain.events import SpanChanged
from controller.domain.network import DirectedLink, Network
from controller.errors import NotFound

SpanState = Literal["up", "dark", "out_of_service"]


def spans_of_link(network: Network, name: str) -> frozenset[str]:
    """The span of a link; `a->b`, `b->a`, `a-b` and `b-a` all name it, `a-b.2` another one between them.

    Raises: NotFound.
    """
    span = next((link.span for link in network.links.values() if name in _names_of(link)), None)
    if span is None:
        raise NotFound(f"There is no link {name!r}; the spans are {', '.join(sorted(network.spans))}.")
    return frozenset({span})


def _names_of(link: DirectedLink) -> tuple[str, str]:
    return link.name, link.name.replace("->", "-")


def spans_of_duct(network: Network, name: str) -> frozenset[str]:
    """All spans in a duct.

    Raises: NotFound.
    """
    spans = frozenset(span for span, link in network.spans.items() if link.duct == name)
    if not spans:
        ducts = sorted({link.duct for link in network.spans.values() if link.duct})
        known = f"the ducts are {', '.join(ducts)}" if ducts else "the map has no ducts"
        raise NotFound(f"There is no duct {name!r}; {known}.")
    return spans


def span_states(network: Network, dark: Collection[str], out_of_service: Collection[str]) -> dict[str, SpanState]:
    """The state of every span that is not up, from dark directed links and spans out of service."""
    known = (span for span in out_of_service if span in network.spans)
    states: dict[str, SpanState] = dict.fromkeys(known, "out_of_service")
    return states | {network.links[link].span: "dark" for link in dark}


def links_of(network: Network, spans: Collection[str]) -> frozenset[str]:
    """Both directions of these spans."""
    return frozenset(link.name for link in network.links.values() if link.span in spans)


def span_changes(
    network: Network, before: Mapping[str, SpanState], after: Mapping[str, SpanState]
) -> list[SpanChanged]:
    """The events for spans whose state has changed, by name."""
    changed = [span for span in sorted({*before, *after}) if before.get(span) != after.get(span)]
    return [_change(network, network.spans[span], after) for span in changed]


def _change(network: Network, link: DirectedLink, after: Mapping[str, SpanState]) -> SpanChanged:
    duct_is_dark = link.duct is not None and all(
        after.get(span) == "dark" for span in spans_of_duct(network, link.duct)
    )
    return SpanChanged(link.span, link.length_km, link.duct, after.get(link.span, "up"), duct_is_dark)
