"""The ports of a network as servers: rates, latencies and shaping of links, credit-based shapers, regulators.

A port of rate C with strict priority is a server of rate C and latency L / C, with L the largest other frame. A
credit-based shaper (IEEE 802.1Qav) of idle slope I makes it one of rate I with the same latency, and what leaves over
the link within t stays below I t + I L / C + one frame. With asynchronous traffic shaping (IEEE 802.1Qcr) regulators
may let frames pass at once that came over one link, so its rate limits nothing. docs/guarantees.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.caches import MIB, bounded_cache
from controller.calculus.curves import Server, ShapingCurve
from controller.domain.network import DirectedLink, Network

MIN_FRAME_BYTES = 60

TAGGED_SHARE = 46 / 42
"""Most by which the tag of a lightpath lengthens a frame: 4 bytes, and 42 are Ethernet, IPv4 and UDP headers alone."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Properties of software that the model depends on: processing time of a switch, granularity of meters and shapers.

    A meter refills every `meter_tick_us`, so it passes one tick's rate beyond its burst (0: it refills continuously and
    holds its burst to the byte); a shaper passes two frames or `shaper_burst_us` of its rate at once (0: the link has
    that rate itself). The gap between two windows or lifetimes at the first switch is at most `clock_us` shorter than
    planned (`gate_schedule`).

    `best_effort_frame_bytes`: the largest best-effort frame that can delay a reserved one (None: the largest of the
    map). With frame preemption (IEEE 802.1Qbu, 802.3br) 143 bytes; 0 where there is no other traffic.

    The processing times are those measured at one ovs-vswitchd (userspace datapath, real-time priority), idle and
    beside a flood: 10 us at least; 371 to 664 us or less for 99.9 % of packets, plus half as much again.
    """

    switch_min_us: float = 10.0
    switch_max_us: float = 1000.0
    meter_tick_us: float = 1000.0
    shaper_burst_us: float = 1000.0
    clock_us: float = 40_000.0
    best_effort_frame_bytes: float | None = None

    def other_frame_bits(self, largest_bits: float) -> float:
        """The largest frame of other traffic that can be in transmission when a reserved one arrives."""
        return largest_bits if self.best_effort_frame_bytes is None else self.best_effort_frame_bytes * 8.0

    @property
    def switch_variation_us(self) -> float:
        """Jitter of the processing time of a switch."""
        return self.switch_max_us - self.switch_min_us


DEFAULT_CALIBRATION = Calibration()


def tagged_share(network: Network) -> float:
    """Return by how much frames on the links of a network may be longer than reservations count them."""
    return 1.0 if network.grid is None else TAGGED_SHARE


@bounded_cache(4 * MIB, entry_bytes=MIB // 2)
def drain_us(network: Network, calibration: Calibration) -> Mapping[str, float]:
    """Return the delay bound up to which the queue of each link is certainly large enough."""
    frame_bits, share = network.max_frame_bytes * 8.0, tagged_share(network)
    return {
        name: -1.0 if network.is_regulated  # what regulators hold does not follow from the delay
        else (network.links[name].queue_bytes * 8 / share - frame_bits) / port.rate_bps * 1e6
        for name, port in ports_of(network, calibration).items()
    }  # fmt: skip


@bounded_cache(4 * MIB, entry_bytes=MIB // 2)
def ports_of(network: Network, calibration: Calibration) -> Mapping[str, Server]:
    """Return the ports of all links as servers."""
    return {link.name: _port(network, link, calibration) for link in network.links.values()}


def _port(network: Network, link: DirectedLink, calibration: Calibration) -> Server:
    frame_bits = network.max_frame_bytes * 8.0
    other_us = calibration.other_frame_bits(frame_bits) / link.capacity_bps * 1e6
    rate_bps, burst_bits = float(link.capacity_bps), frame_bits
    if link.idle_slope_bps is not None:
        rate_bps = float(link.idle_slope_bps)
        burst_bits += rate_bps * other_us / 1e6
    elif calibration.shaper_burst_us:
        burst_bits += max(2 * frame_bits, rate_bps * calibration.shaper_burst_us / 1e6)
    burst_bits += rate_bps * calibration.switch_variation_us / 1e6
    return Server(
        rate_bps=rate_bps,
        latency_us=other_us,
        min_delay_us=_min_delay_us(link),
        max_transit_us=link.propagation_us + calibration.switch_max_us,
        transit_jitter_us=calibration.switch_variation_us,
        output_shaping=None if network.is_regulated else ShapingCurve(burst_bits, rate_bps),
        is_regulated=network.is_regulated and network.nodes[link.source].is_switch,
    )


def _min_delay_us(link: DirectedLink) -> float:
    return MIN_FRAME_BYTES * 8 / link.capacity_bps * 1e6


def fixed_parts_us(network: Network, links: tuple[str, ...], calibration: Calibration) -> tuple[float, float]:
    """Return what does not depend on other flows along these links: of the worst case, and the whole best case."""
    return _fixed_parts_us(network, links, calibration.switch_min_us, calibration.switch_max_us)


@bounded_cache(8 * MIB, entry_bytes=384)
def _fixed_parts_us(
    network: Network, names: tuple[str, ...], switch_min_us: float, switch_max_us: float
) -> tuple[float, float]:
    links = [network.links[name] for name in names]
    switches = len(links) - 1
    fibre_us = sum(link.propagation_us for link in links)
    best_us = fibre_us + switches * switch_min_us + sum(_min_delay_us(link) for link in links)
    return fibre_us + switches * switch_max_us, best_us
