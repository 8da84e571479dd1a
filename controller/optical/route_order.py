"""In which order routes are tried on each map, as `bench/order_tuning.py` found it; `TUNED` over 50 where it has not.

A map is told by the lengths of its fibres, whatever its sites are called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from controller.domain.network import Network
from controller.optical.rsa import (
    TUNED,
    Order,
)

Spans = Mapping[tuple[str, str], float]
"""Length in km by pair of ends."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An order and the routes it chooses from: how many, and whether the shortest or those of the fewest hops."""

    order: Order
    k: int
    by: str = "length"


ELSEWHERE: Final = Candidate(TUNED, 50)

CHOSEN: Final[Mapping[str, Candidate]] = {
    "af9b7c1e090f0176": Candidate(Order(position=0.03, load=0.1), 50),  # NSFNET of 14 nodes, as in bench/blocking.py
    "b9c1329f79f87b4f": Candidate(Order(position=0.03, load=0.1), 50),  # sndlib/nobel-us
}


def fingerprint(spans: Spans) -> str:
    """What tells a plant from others: a digest of all its lengths, to 100 m."""
    lengths = " ".join(f"{length_km:.1f}" for length_km in sorted(spans.values()))
    return hashlib.sha256(lengths.encode()).hexdigest()[:16]


def chosen_for(spans: Spans) -> Candidate:
    """The order tuned for this plant, or one that is good elsewhere if there is none."""
    return CHOSEN.get(fingerprint(spans), ELSEWHERE)


@lru_cache(maxsize=64)
def order_on(network: Network) -> Candidate | None:
    """The order tuned for the fibres between a network's switches; None: the shortest route with room is taken."""
    if network.grid is None:
        return None
    switches = {switch.name for switch in network.switches}
    spans = [span for span in network.spans.values() if {span.source, span.destination} <= switches]
    chosen = CHOSEN.get(fingerprint({(span.source, span.destination): span.length_km for span in spans}))
    return None if chosen is None or chosen.order.in_turn else chosen
