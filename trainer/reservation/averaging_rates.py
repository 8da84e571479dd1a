"""The rates for an averaging: in proportion to what each edge sends and gets, so that all have it at the same moment.

A plan's rates are in proportion to the segments, which shrink towards the last layers, while what the layers hold
grows: with them the edge with the most layers would have the most to send and the least rate for it.
"""

from __future__ import annotations

from collections.abc import Mapping

Volumes = dict[str, tuple[int, int]]
"""By edge: bytes (L2) to the cloud, and back."""

Rates = dict[str, tuple[int, int]]
"""By edge: bit/s (L2) to the cloud, and back."""

WORTH_S = 0.25
"""Other rates have to shorten an averaging by so much: asking for them and telling the switches takes time, too."""


def haul_rates(whole: Rates, share: float, floor_bps: float) -> Rates:
    """The part `share` of the rates at which all can go together, and `floor_bps` at least.

    What lifts some flows to the floor, the others have less.
    """
    up, down = (_lifted({edge: share * rates[way] for edge, rates in whole.items()}, floor_bps) for way in (0, 1))
    return {edge: (up[edge], down[edge]) for edge in whole}


def _lifted(rates_bps: Mapping[str, float], floor_bps: float) -> dict[str, int]:
    lifted_bps = sum(max(0.0, floor_bps - rate_bps) for rate_bps in rates_bps.values())
    above_bps = sum(max(0.0, rate_bps - floor_bps) for rate_bps in rates_bps.values())
    kept = max(0.0, 1 - lifted_bps / above_bps) if above_bps else 0.0
    return {edge: int(floor_bps + kept * max(0.0, rate_bps - floor_bps)) for edge, rate_bps in rates_bps.items()}


def haul_s(volumes: Volumes, rates: Rates) -> float:
    """How long an averaging's volumes take at these rates: first all go to the cloud, then all come back."""
    return sum(max(8 * volumes[edge][way] / rates[edge][way] for edge in volumes) for way in (0, 1))
