"""Upper bounds on the latency and its variation of every reserved flow, from the network calculus of its ports.

Model. A packet counts as arrived at a port when its last bit is there (store and forward), so a flow that a meter
lets through is a point process under the token bucket b + r t. Reserved flows share the strict-priority class of each
egress port, first come, first served; the only best-effort packet in their way is the one being sent. A port is so a
server of the link's rate whose latency is the largest frame (`curves`). Flows that come in over one link cannot come
faster than it carries them: at once, the largest frame, what the link's shaper lets through, and what the variation of
a switch's work can pile up. After hops over which its delay can vary by J a flow's burst is b + r J. Flows may depend
on each other in a circle: the delays of all ports are a fixed point (`fixpoint`), kept up to date from change to
change (`delays`). Flows that are never there together do not delay each other (`waiting`).

docs/guarantees.md has the derivation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Generic, TypeVar

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.curves import InputLink, Server
from controller.calculus.delays import Delays
from controller.calculus.fixed_point import NoBound, Stream
from controller.domain.frozen import frozen
from controller.domain.network import DirectedLink, Network
from controller.domain.path import link_names

__all__ = ["DEFAULT_CALIBRATION", "Analysis", "Bound", "Calibration", "NoBound", "ShapedFlow", "bounds_of"]

MIN_FRAME_BYTES = 60

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What software adds to the model: a switch's work on a packet, at best and at worst; how coarsely meters and
    shapers count. A meter refills once each `meter_tick_us`, so it lets one tick's rate through beyond its burst;
    a shaper lets two frames or `shaper_burst_us` of its rate through at once. Windows and lifetimes begin and end at
    the first switch so exactly that the gap between two is at most `clock_us` smaller than planned (`gates`).

    A switch's work is what one ovs-vswitchd (userspace datapath, real-time priority) was measured to take, alone and
    beside a flood: 10 us at least; 371 to 664 us or less for 99.9 % of packets, and half as much again.
    """

    switch_min_us: float = 10.0
    switch_max_us: float = 1000.0
    meter_tick_us: float = 1000.0
    shaper_burst_us: float = 1000.0
    clock_us: float = 40_000.0

    @property
    def switch_variation_us(self) -> float:
        """The worst minus the best case of a switch's work."""
        return self.switch_max_us - self.switch_min_us


DEFAULT_CALIBRATION = Calibration()


@frozen
class ShapedFlow:
    """A flow as its first meter shapes it, where it goes, and when."""

    path: tuple[str, ...]
    rate_bps: int
    burst_bytes: int
    activity: Activity = ALWAYS


@frozen
class Bound:
    """The worst case, and the worst minus the best case, from the source's socket to the destination's."""

    accumulated_latency_us: float
    latency_variation_us: float


class Analysis(Generic[Key]):
    """The bounds of all flows, each in the presence of all others; immutable, `changed` makes another.

    After `changed` a bound may be up to some hundredths above what a new analysis would find, never below.
    """

    def __init__(self, network: Network, calibration: Calibration, delays: Delays[Key]) -> None:
        self.network = network
        self.calibration = calibration
        self._delays = delays
        self._bounds: dict[Key, Bound] = {}
        """Those that were asked for."""

    @classmethod
    def of(
        cls, network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
    ) -> Analysis[Key]:
        """Worked out from zero.

        Raises: NoBound if a port is overbooked or the fixed point is out of reach.
        """
        streams = {key: _stream(flow, calibration) for key, flow in flows.items()}
        delays = Delays(_ports(network, calibration), streams, calibration.clock_us)
        return cls(network, calibration, delays)

    def changed(self, added: Mapping[Key, ShapedFlow], removed: Collection[Key] = ()) -> Analysis[Key]:
        """The analysis without the flows `removed` and with those `added`; a key in both is replaced.

        Raises: NoBound if a port is overbooked or the fixed point is out of reach; KeyError if one to be removed is
        not there.
        """
        streams = {key: _stream(flow, self.calibration) for key, flow in added.items()}
        gone = dict.fromkeys((*removed, *(key for key in added if key in self._delays.streams)))
        return Analysis(self.network, self.calibration, self._delays.changed(streams, gone))

    def bound(self, key: Key) -> Bound:
        """The bound of one flow.

        Raises: NoBound if it is out of reach.
        """
        if key not in self._bounds:
            names = self._delays.streams[key].servers
            work_us = self.calibration.switch_min_us, self.calibration.switch_max_us
            fixed_us, best_us = _fixed_us(self.network, names, *work_us)
            worst_us = fixed_us + self._delays.along_us(names)
            self._bounds[key] = Bound(worst_us, worst_us - best_us)
        return self._bounds[key]

    @property
    def bounds(self) -> dict[Key, Bound]:
        """The bounds of all flows."""
        return {key: self.bound(key) for key in self._delays.streams}

    @property
    def moved_links(self) -> frozenset[str]:
        """The links at which the delay may be another than in the analysis that this was `changed` from."""
        return self._delays.moved


def bounds_of(
    network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
) -> dict[Key, Bound]:
    """The bounds of all flows, each in the presence of all others.

    Raises: NoBound if a port is overbooked or the fixed point is out of reach.
    """
    return Analysis.of(network, flows, calibration).bounds


@lru_cache(maxsize=8)
def _ports(network: Network, calibration: Calibration) -> Mapping[str, Server]:
    return {link.name: _port(link, network.max_frame_bytes * 8.0, calibration) for link in network.links.values()}


def _port(link: DirectedLink, frame_bits: float, calibration: Calibration) -> Server:
    rate_bps = float(link.capacity_bps)
    at_once_bits = frame_bits + max(2 * frame_bits, rate_bps * calibration.shaper_burst_us / 1e6)
    at_once_bits += rate_bps * calibration.switch_variation_us / 1e6
    return Server(
        rate_bps=rate_bps,
        latency_us=frame_bits / rate_bps * 1e6,
        quickest_us=_quickest_us(link),
        transit_us=link.propagation_us + calibration.switch_max_us,
        variation_us=calibration.switch_variation_us,
        line=InputLink(at_once_bits, rate_bps),
    )


def _stream(flow: ShapedFlow, calibration: Calibration) -> Stream:
    meter_burst_bits = ceil(flow.burst_bytes * 8 / 1000) * 1000.0  # as the meter rounds it
    ports = link_names(flow.path)
    return Stream(ports, float(flow.rate_bps), meter_burst_bits, calibration.meter_tick_us, flow.activity)


def _quickest_us(link: DirectedLink) -> float:
    return MIN_FRAME_BYTES * 8 / link.capacity_bps * 1e6


@lru_cache(maxsize=65_536)
def _fixed_us(
    network: Network, names: tuple[str, ...], switch_min_us: float, switch_max_us: float
) -> tuple[float, float]:
    """What no other flow changes along these links: the part of the worst case apart from the ports, the best case."""
    links = [network.links[name] for name in names]
    switches = len(links) - 1
    fibre_us = sum(link.propagation_us for link in links)
    best_us = fibre_us + switches * switch_min_us + sum(_quickest_us(link) for link in links)
    return fibre_us + switches * switch_max_us, best_us
