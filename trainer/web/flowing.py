"""What flows on the spans of a network, beside what is reserved. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.web.network_state import span_of

Json = dict[str, Any]

LEAST_SHARE = 0.002
"""Less than this share of the capacity, such as frames of the wiring check, counts as nothing."""

LEAST_TOLD_BPS = 50_000.0
"""A rate that is told has one decimal of a Mb/s."""


@dataclass(frozen=True, slots=True)
class FlowingSpan:
    """What flows on a span: a level from 0 (nothing) to 5 of its fuller direction, and the rates by direction."""

    name: str
    level: int
    rates_bps: Mapping[str, float]

    @property
    def flowing(self) -> dict[str, float]:
        """The directions with a rate that is not 0.0 Mb/s."""
        return {link: rate_bps for link, rate_bps in self.rates_bps.items() if rate_bps >= LEAST_TOLD_BPS}


def flowing(network: Json | None, rates_bps: Mapping[str, float]) -> list[FlowingSpan]:
    """Return the spans whose rates are known."""
    rates: dict[str, dict[str, float]] = {}
    shares: dict[str, float] = {}
    for link in [] if network is None else network["links"]:
        if link["link"] in rates_bps:
            rate_bps, name = rates_bps[link["link"]], span_of(link)
            rates.setdefault(name, {})[link["link"]] = rate_bps
            shares[name] = max(shares.get(name, 0.0), rate_bps / max(1, link["capacity_bps"]))
    return [FlowingSpan(name, _level(shares[name]), found) for name, found in rates.items()]


def _level(share: float) -> int:
    return 0 if share < LEAST_SHARE else min(5, math.ceil(share * 5))
