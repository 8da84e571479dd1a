"""The route order per map, as found by `bench/order_tuning.py`; otherwise `TUNED` over 50 routes.

A map is identified by the lengths of its fibres, independent of the names of its sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controller.caches import MIB, bounded_cache
from controller.domain.network import Network
from controller.optical.rsa import TUNED, RouteOrder

SpanLengths = Mapping[tuple[str, str], float]
"""Length in km by pair of ends."""


@dataclass(frozen=True, slots=True)
class RouteSelection:
    """A route order and its candidate routes: how many, and whether the shortest or those of the fewest hops."""

    order: RouteOrder
    k: int
    by: str = "length"


DEFAULT_SELECTION: Final = RouteSelection(TUNED, 50)

SELECTION_BY_FINGERPRINT: Final[Mapping[str, RouteSelection]] = {
    # NSFNET of 14 nodes, as in bench/blocking.py
    "af9b7c1e090f0176": RouteSelection(RouteOrder(position=0.03, load=0.1), 50),
    # sndlib/nobel-us
    "b9c1329f79f87b4f": RouteSelection(RouteOrder(position=0.03, load=0.1), 50),
}


def fingerprint(spans: SpanLengths) -> str:
    """Return an identifier of a fibre plant: a digest of all its lengths, to 100 m."""
    lengths = " ".join(f"{length_km:.1f}" for length_km in sorted(spans.values()))
    return hashlib.sha256(lengths.encode()).hexdigest()[:16]


def tuned_selection_for(spans: SpanLengths) -> RouteSelection:
    """Return the selection tuned for this plant, or the default."""
    return SELECTION_BY_FINGERPRINT.get(fingerprint(spans), DEFAULT_SELECTION)


@bounded_cache(4 * MIB, entry_bytes=MIB // 2)
def route_order_for(network: Network) -> RouteSelection | None:
    """Return the selection tuned for the fibres between a network's switches; None: the shortest feasible route."""
    if network.grid is None:
        return None
    switches = {switch.name for switch in network.switches}
    spans = [span for span in network.spans.values() if {span.source, span.destination} <= switches]
    lengths_km = {(span.source, span.name): span.length_km for span in spans}
    selection = SELECTION_BY_FINGERPRINT.get(fingerprint(lengths_km))
    return None if selection is None or selection.order.is_sequential else selection
