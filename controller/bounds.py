"""Upper bounds on the latency and its variation of every reserved flow: a total-flow analysis.

Model. A packet counts as arrived at a port when its last bit is there (store and forward), so a flow that a meter
lets through is a point process under the token bucket alpha(t) = b + r t. Reserved flows share the strict-priority
class of each egress port first come first served; the only best-effort packet in their way is the one being sent.
With C the port's rate and L the largest frame, no reserved packet waits longer at a port than

    D = (sum of the bursts b_i at that port + L) / C          while  sum of the rates r_i < C,

its own transmission included. After hops over which its delay can vary by J, a flow's burst is b + r J. As flows may
depend on each other in a circle, the D are the smallest fixed point, found by iteration from below; a circle too
tight has none, and then there is no bound to promise.

Source: Le Boudec and Thiran, "Network Calculus", §1.4 (output bound b + rT, aggregate FIFO) and §2.4 (aggregate
scheduling); Schmitt et al., "Delay bounds under arbitrary multiplexing", INFOCOM 2008 (total-flow analysis).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from controller.network import DirectedLink, Network

MIN_FRAME_BYTES = 60
ITERATIONS = 200
TOLERANCE_US = 0.001
HOPELESS_US = 60_000_000.0

Key = TypeVar("Key")
Links = tuple[DirectedLink, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a software switch adds to the model: one look-up and copy, at best and at worst.

    The meter refills once each `meter_tick_us`, so it lets through up to one tick's rate beyond its burst.
    """

    switch_min_us: float = 50.0
    switch_max_us: float = 1000.0
    meter_tick_us: float = 1000.0


DEFAULT_CALIBRATION = Calibration()


@dataclass(frozen=True, slots=True)
class ShapedFlow:
    """A flow as its first meter shapes it, and where it goes."""

    path: tuple[str, ...]
    rate_bps: int
    burst_bytes: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The worst case, and the worst minus the best case, from the source's socket to the destination's."""

    accumulated_latency_us: float
    latency_variation_us: float


class NoBound(Exception):  # noqa: N818 - an answer, not an error
    """The analysis found no finite bound; `link` is where the delay grew without end."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


def bounds_of(
    network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
) -> dict[Key, Bound]:
    """The bounds of all flows, each in the presence of all others.

    Raises: NoBound if a port is overbooked or the fixed point is out of reach.
    """
    crossings = {key: network.links_along(flow.path) for key, flow in flows.items()}
    ports = {link.name: link for links in crossings.values() for link in links}
    _refuse_overbooked(flows, crossings, ports)
    delay_us = _fixed_point(network, flows, crossings, ports, calibration)
    return {key: _bound(links, delay_us, calibration) for key, links in crossings.items()}


def _refuse_overbooked(
    flows: Mapping[Key, ShapedFlow], crossings: Mapping[Key, Links], ports: Mapping[str, DirectedLink]
) -> None:
    rate_bps = dict.fromkeys(ports, 0)
    for key, links in crossings.items():
        for link in links:
            rate_bps[link.name] += flows[key].rate_bps
    for name, port in ports.items():
        if rate_bps[name] >= port.capacity_bps:
            raise NoBound(name)


def _fixed_point(
    network: Network,
    flows: Mapping[Key, ShapedFlow],
    crossings: Mapping[Key, Links],
    ports: Mapping[str, DirectedLink],
    calibration: Calibration,
) -> dict[str, float]:
    """The delay of each port in us, iterated from below until it stands still."""
    delay_us = dict.fromkeys(ports, 0.0)
    for _ in range(ITERATIONS):
        waiting_bits = dict.fromkeys(ports, network.frame_bytes * 8.0)
        for key, links in crossings.items():
            _add_bursts(waiting_bits, flows[key], links, delay_us, calibration)
        following = {name: waiting_bits[name] / port.capacity_bps * 1e6 for name, port in ports.items()}
        if all(following[name] - delay_us[name] <= TOLERANCE_US for name in ports):
            return following
        delay_us = following
        if max(delay_us.values()) > HOPELESS_US:
            break
    raise NoBound(max(delay_us, key=lambda name: delay_us[name]))


def _add_bursts(
    waiting_bits: dict[str, float],
    flow: ShapedFlow,
    links: Links,
    delay_us: Mapping[str, float],
    calibration: Calibration,
) -> None:
    """Add the flow's burst at every port it crosses: b + r (jitter so far)."""
    burst_bits = ceil(flow.burst_bytes * 8 / 1000) * 1000  # as the meter rounds it
    jitter_us = calibration.meter_tick_us
    for link in links:
        waiting_bits[link.name] += burst_bits + flow.rate_bps * jitter_us / 1e6
        jitter_us += max(0.0, delay_us[link.name] - _quickest_us(link))
        jitter_us += calibration.switch_max_us - calibration.switch_min_us


def _quickest_us(link: DirectedLink) -> float:
    return MIN_FRAME_BYTES * 8 / link.capacity_bps * 1e6


def _bound(links: Links, delay_us: Mapping[str, float], calibration: Calibration) -> Bound:
    switches = len(links) - 1
    fibre_us = sum(link.propagation_us for link in links)
    worst_us = fibre_us + switches * calibration.switch_max_us + sum(delay_us[link.name] for link in links)
    best_us = fibre_us + switches * calibration.switch_min_us + sum(_quickest_us(link) for link in links)
    return Bound(worst_us, worst_us - best_us)
