"""Rates for an averaging: proportional to the bytes of each edge, so that all transfers end together.

The rates of a round plan are proportional to the segments. These shrink towards the last layers while the parameters
grow, so at the round's rates the edge with the most layers would have the most bytes and the lowest rate.
"""

from __future__ import annotations

from collections.abc import Mapping

Volumes = dict[str, tuple[int, int]]
"""By edge: bytes (L2) to the cloud and from the cloud."""

Rates = dict[str, tuple[int, int]]
"""By edge: bit/s (L2) to the cloud and from the cloud."""

MIN_SAVING_S = 0.25
"""Minimum time to save by changing the rates: the change itself takes time at the controller and the switches."""


def rates_with_floor(full: Rates, share: float, floor_bps: float) -> Rates:
    """Return the part `share` of the `full` rates, at least `floor_bps`, which the flows above it make up for."""
    up, down = (
        _raised_to_floor({edge: share * rates[direction] for edge, rates in full.items()}, floor_bps)
        for direction in (0, 1)
    )
    return {edge: (up[edge], down[edge]) for edge in full}


def _raised_to_floor(rates_bps: Mapping[str, float], floor_bps: float) -> dict[str, int]:
    raised_bps = sum(max(0.0, floor_bps - rate_bps) for rate_bps in rates_bps.values())
    above_bps = sum(max(0.0, rate_bps - floor_bps) for rate_bps in rates_bps.values())
    kept = max(0.0, 1 - raised_bps / above_bps) if above_bps else 0.0
    return {edge: int(floor_bps + kept * max(0.0, rate_bps - floor_bps)) for edge, rate_bps in rates_bps.items()}


def averaging_time_s(volumes: Volumes, rates: Rates) -> float:
    """Return the duration of an averaging: all transfers to the cloud, then all transfers back."""
    return sum(max(8 * volumes[edge][direction] / rates[edge][direction] for edge in volumes)
               for direction in (0, 1))
