"""Upper bounds on the latency and its variation of every reserved flow: a total-flow analysis with line shaping.

Model. A packet counts as arrived at a port when its last bit is there (store and forward), so a flow that a meter
lets through is a point process under the token bucket b + r t. Reserved flows share the strict-priority class of each
egress port, first come first served; the only best-effort packet in their way is the one being sent. Flows that come
in over one link g cannot come faster than it carries them, so as a group they stay under

    alpha_g(t) = min( sum b_i + t sum r_i,  L + S + C_g (t + V) )

with L the largest frame, S what the link's shaper lets through at once, C_g its rate, V the variation of the switch's
own work. With C the port's rate no reserved packet waits longer at it, its own transmission included, than

    D = max over t of ( sum_g alpha_g(t) + L ) / C - t.

The sum is concave with a corner for each group, so the maximum is at a corner or at t = 0. After hops over which its
delay can vary by J a flow's burst is b + r J. As flows may depend on each other in a circle, the D are the smallest
fixed point, found by iteration from below; a circle too tight has none, and then there is no bound to promise.

Source: Le Boudec and Thiran, "Network Calculus", §1.4 (output bound, first-come-first-served aggregates);
Mifdaoui and Leydier, "Beyond the accuracy-complexity tradeoffs of compositional analyses using network calculus for
complex networks", CRTS 2017 (TFA++: line shaping of groups); Thomas, Le Boudec and Mifdaoui, "On cyclic dependencies
and regulators in time-sensitive networks", RTSS 2019 (the fixed point bounds the delay).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, inf
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
    """What software adds to the model: a switch's work on a packet, at best and at worst; how coarsely meters and
    shapers count. A meter refills once each `meter_tick_us`, so it lets one tick's rate through beyond its burst;
    a shaper lets two frames or `shaper_burst_us` of its rate through at once.
    """

    switch_min_us: float = 50.0
    switch_max_us: float = 1000.0
    meter_tick_us: float = 1000.0
    shaper_burst_us: float = 1000.0

    @property
    def switch_variation_us(self) -> float:
        """The worst minus the best case of a switch's work."""
        return self.switch_max_us - self.switch_min_us


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
    frame_bits = network.frame_bytes * 8.0
    for _ in range(ITERATIONS):
        groups: dict[str, dict[str, _Group]] = {name: {} for name in ports}
        for key, links in crossings.items():
            _join_groups(groups, flows[key], links, delay_us, calibration)
        following = {
            name: _port_delay_us(port.capacity_bps, groups[name].values(), frame_bits, calibration)
            for name, port in ports.items()
        }
        if all(abs(following[name] - delay_us[name]) <= TOLERANCE_US for name in ports):
            return following
        delay_us = following
        if max(delay_us.values()) > HOPELESS_US:
            break
    raise NoBound(max(delay_us, key=lambda name: delay_us[name]))


@dataclass(slots=True)
class _Group:
    """Flows that reach a port over the same link; `line_bps` is None at the source, where nothing shapes them."""

    line_bps: int | None
    burst_bits: float = 0.0
    rate_bps: int = 0


def _join_groups(
    groups: dict[str, dict[str, _Group]],
    flow: ShapedFlow,
    links: Links,
    delay_us: Mapping[str, float],
    calibration: Calibration,
) -> None:
    """Add the flow to its group at every port it crosses, with the burst b + r (jitter so far)."""
    meter_burst_bits = ceil(flow.burst_bytes * 8 / 1000) * 1000  # as the meter rounds it
    jitter_us = calibration.meter_tick_us
    before: DirectedLink | None = None
    for link in links:
        name, line_bps = (before.name, before.capacity_bps) if before else ("", None)
        group = groups[link.name].setdefault(name, _Group(line_bps))
        group.burst_bits += meter_burst_bits + flow.rate_bps * jitter_us / 1e6
        group.rate_bps += flow.rate_bps
        jitter_us += max(0.0, delay_us[link.name] - _quickest_us(link)) + calibration.switch_variation_us
        before = link


def _port_delay_us(
    capacity_bps: int, groups: Collection[_Group], frame_bits: float, calibration: Calibration
) -> float:
    """The longest any reserved packet waits at a port: the largest horizontal distance between arrivals and service."""
    buckets = [(group.burst_bits, float(group.rate_bps)) for group in groups]
    lines = []
    for group in groups:
        line_bps = group.line_bps or inf
        at_once_bits = frame_bits + max(2 * frame_bits, line_bps * calibration.shaper_burst_us / 1e6)
        at_once_bits += line_bps * calibration.switch_variation_us / 1e6
        lines.append((at_once_bits, line_bps))

    def arrived_bits(t_s: float) -> float:
        return sum(
            min(burst + rate * t_s, at_once + line * t_s if line < inf else inf)
            for (burst, rate), (at_once, line) in zip(buckets, lines, strict=True)
        )

    corners_s = [0.0]
    for (burst, rate), (at_once, line) in zip(buckets, lines, strict=True):
        if rate < line < inf and burst > at_once:
            corners_s.append((burst - at_once) / (line - rate))
    return max((arrived_bits(t_s) + frame_bits) / capacity_bps - t_s for t_s in corners_s) * 1e6


def _quickest_us(link: DirectedLink) -> float:
    return MIN_FRAME_BYTES * 8 / link.capacity_bps * 1e6


def _bound(links: Links, delay_us: Mapping[str, float], calibration: Calibration) -> Bound:
    switches = len(links) - 1
    fibre_us = sum(link.propagation_us for link in links)
    worst_us = fibre_us + switches * calibration.switch_max_us + sum(delay_us[link.name] for link in links)
    best_us = fibre_us + switches * calibration.switch_min_us + sum(_quickest_us(link) for link in links)
    return Bound(worst_us, worst_us - best_us)
