"""The bounds of ports with credit-based shapers and with asynchronous traffic shaping, against simulated ones."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.network_bounds import Analysis, Calibration, NoBound, ShapedFlow
from controller.domain.network import DirectedLink, Network, network_from_map
from topologies.maps import Map, MapLink, MapNode

HARDWARE = Calibration(2.0, 20.0, 0.0, 0.0, 0.0)
"""Exact meters and links without a shaper of the emulation; full-size frames of other traffic."""
PATTERNS = ("all at once", "greedy from any moment", "saves up and bursts", "as it comes")


@st.composite
def loaded_rings(draw: st.DrawFn) -> tuple[Network, dict[int, ShapedFlow]]:
    """A ring with a host at every switch, and flows that go round it; some ports have shapers, or all regulators."""
    switches, is_regulated = draw(st.integers(3, 5)), draw(st.booleans())
    slopes = st.sampled_from((None, 30.0, 50.0, 75.0))
    nodes = [MapNode(f"s{i}", "switch", (float(i), 0.0)) for i in range(switches)]
    nodes += [MapNode(f"h{i}", "edge", (float(i), 1.0)) for i in range(switches)]
    ends = [(f"s{i}", f"s{(i + 1) % switches}") for i in range(switches)]
    ends += [(f"h{i}", f"s{i}") for i in range(switches)]
    links = tuple(MapLink(pair, 1.0, 1, 100.0, idle_slope_gbps=draw(slopes)) for pair in ends)
    network = network_from_map(Map("ring", "", 1.0, 1500, tuple(nodes), links, ats=is_regulated))
    flows = {}
    most_bps = draw(st.sampled_from((2_000_000, 5_000_000, 8_000_000)))
    for number in range(draw(st.integers(2, 10))):
        first, hops, way = draw(st.integers(0, switches - 1)), draw(st.integers(1, switches - 1)), draw(_WAYS)
        passed = [(first + way * hop) % switches for hop in range(hops + 1)]
        path = (f"h{first}", *(f"s{i}" for i in passed), f"h{passed[-1]}")
        flows[number] = ShapedFlow(path, draw(st.integers(200_000, most_bps)), draw(st.integers(1514, 15_000)),
                                   draw(_ACTIVITIES))  # fmt: skip
    return network, flows


_WAYS = st.sampled_from((1, 1, 1, -1))
_ACTIVITIES = st.sampled_from((ALWAYS, ALWAYS, Activity(0.0, 0.2), Activity(0.5, 0.7)))


@dataclass(frozen=True, order=True)
class Packet:
    """On its way: at a port, or in its regulator, at `now_s`; the rest says whose it is and where."""

    now_s: float
    order: int
    number: int
    hop: int
    is_eligible: bool
    frame_bytes: int
    sent_s: float


@dataclass
class Port:
    """Free at `free_s`, with this credit in bit."""

    free_s: float = 0.0
    credit_bits: float = 0.0


@dataclass
class Regulator:
    """Of one input of a port: packets leave it in order, each when its flow's bucket has as much as it is long."""

    eligible_s: float = 0.0
    buckets: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By flow: tokens in bit, and since when."""


class ShapedPorts:
    """Store and forward; another frame begins just before any frame that finds its port idle or without credit."""

    def __init__(
        self, network: Network, flows: dict[int, ShapedFlow], chance: random.Random, blocked_share: float = 0.8
    ) -> None:
        self.network = network
        self.blocked_share = blocked_share
        self.flows = flows
        self.chance = chance
        self.links = {number: network.links_along(flow.path) for number, flow in flows.items()}
        self.ports: dict[str, Port] = {}
        self.regulators: dict[tuple[str, str], Regulator] = {}
        self.ready_s: dict[str, float] = {}
        self.delays_us: dict[int, tuple[float, float]] = {}
        self.queues: dict[str, deque[tuple[float, int]]] = {}
        self.most_bytes: dict[str, int] = {}
        self._order = 0

    def run(self, packets: list[Packet]) -> dict[int, tuple[float, float]]:
        """The shortest and longest delay of each flow's packets."""
        heapq.heapify(packets)
        held: dict[str, list[int]] = {}
        while packets:
            packet = heapq.heappop(packets)
            links = self.links[packet.number]
            link = links[packet.hop]
            if not packet.is_eligible:
                held.setdefault(link.name, [0])[0] += packet.frame_bytes
                self._note_backlog(link.name, packet, held[link.name][0])
                eligible_s = self._eligible_s(link, links[packet.hop - 1], packet)
                heapq.heappush(packets, self._next(packet, eligible_s, packet.hop))
                continue
            if self._is_regulated(packet):
                held[link.name][0] -= packet.frame_bytes
            done_s = self._transmit(link, packet)
            self.queues.setdefault(link.name, deque()).append((done_s, packet.frame_bytes))
            self._note_backlog(link.name, packet, held.get(link.name, [0])[0])
            if packet.hop + 1 == len(links):
                delay_us = (done_s - packet.sent_s) * 1e6 + link.propagation_us
                least, most = self.delays_us.get(packet.number, (delay_us, delay_us))
                self.delays_us[packet.number] = min(least, delay_us), max(most, delay_us)
                continue
            work_us = self.chance.choice((HARDWARE.switch_min_us, HARDWARE.switch_max_us))
            ready_s = max(done_s + (link.propagation_us + work_us) / 1e6, self.ready_s.get(link.name, 0.0))
            self.ready_s[link.name] = ready_s
            heapq.heappush(packets, self._next(packet, ready_s, packet.hop + 1))
        return self.delays_us

    def _is_regulated(self, packet: Packet) -> bool:
        return self.network.is_regulated and packet.hop > 0

    def _next(self, packet: Packet, now_s: float, hop: int) -> Packet:
        self._order += 1
        is_eligible = not self.network.is_regulated or hop == packet.hop
        return replace(packet, now_s=now_s, order=self._order, hop=hop, is_eligible=is_eligible)

    def _note_backlog(self, name: str, packet: Packet, held_bytes: int) -> None:
        queue = self.queues.setdefault(name, deque())
        while queue and queue[0][0] <= packet.now_s:
            queue.popleft()
        self.most_bytes[name] = max(self.most_bytes.get(name, 0), held_bytes + sum(size for _, size in queue))

    def _eligible_s(self, link: DirectedLink, before: DirectedLink, packet: Packet) -> float:
        regulator = self.regulators.setdefault((link.name, before.name), Regulator())
        flow, bits = self.flows[packet.number], packet.frame_bytes * 8.0
        depth_bits = flow.burst_bytes * 8.0
        tokens_bits, since_s = regulator.buckets.get(packet.number, (depth_bits, 0.0))
        now_s = max(packet.now_s, regulator.eligible_s)
        tokens_bits = min(depth_bits, tokens_bits + (now_s - since_s) * flow.rate_bps)
        wait_s = max(0.0, (bits - tokens_bits) / flow.rate_bps - 1e-12)
        regulator.buckets[packet.number] = tokens_bits + wait_s * flow.rate_bps - bits, now_s + wait_s
        regulator.eligible_s = now_s + wait_s
        return regulator.eligible_s

    def _transmit(self, link: DirectedLink, packet: Packet) -> float:
        port = self.ports.setdefault(link.name, Port())
        rate_bps, other_s = link.capacity_bps, self.network.max_frame_bytes * 8 / link.capacity_bps
        blocked_s = other_s if self.chance.random() < self.blocked_share else 0.0
        if link.idle_slope_bps is None:
            start_s = port.free_s if packet.now_s < port.free_s else packet.now_s + blocked_s
        else:
            slope_bps, start_s, credit = link.idle_slope_bps, max(packet.now_s, port.free_s), port.credit_bits
            if packet.now_s >= port.free_s:  # the queue was empty: credit grows to 0 at most, and above 0 is lost
                credit = min(0.0, credit + slope_bps * (packet.now_s - port.free_s))
            if credit < 0 or packet.now_s >= port.free_s:
                start_s += -credit / slope_bps + blocked_s
                credit = slope_bps * blocked_s
            port.credit_bits = credit - (rate_bps - slope_bps) * packet.frame_bytes * 8 / rate_bps
        port.free_s = start_s + packet.frame_bytes * 8 / rate_bps
        return port.free_s


def packets_of(number: int, flow: ShapedFlow, pattern: str, chance: random.Random) -> list[Packet]:
    """A source within its bucket and its lifetime."""
    moment_s = max(0.0, flow.activity.start_s) + (0.0 if pattern == "all at once" else chance.uniform(0, 0.02))
    tokens, packets = float(flow.burst_bytes), list[Packet]()
    while len(packets) < 50:
        frame_bytes = chance.choice((60, 700, *[1514] * 4))
        wait_s = max(0.0, (frame_bytes - tokens) * 8 / flow.rate_bps)
        if (pattern == "saves up and bursts" and chance.random() < 0.1) or pattern == "as it comes":
            wait_s += chance.expovariate(flow.rate_bps / (8 * 5_000))
        if moment_s + wait_s >= flow.activity.end_s:
            break
        tokens = min(flow.burst_bytes, tokens + wait_s * flow.rate_bps / 8) - frame_bytes
        moment_s += wait_s
        packets.append(Packet(moment_s, chance.getrandbits(30), number, 0, True, frame_bytes, moment_s))
    return packets


@given(loaded=loaded_rings(), pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_packet_is_later_and_no_queue_longer_than_its_bound(
    loaded: tuple[Network, dict[int, ShapedFlow]], pattern: str, seed: int
) -> None:
    network, flows = loaded
    chance = random.Random(seed)
    analysis: Analysis[int] = Analysis.of(network, {}, HARDWARE)
    try:
        fresh = Analysis.of(network, flows, HARDWARE)
        for number, flow in flows.items():
            analysis = analysis.changed({number: flow})
            assert analysis.backlog_bytes(f"{flow.path[0]}->{flow.path[1]}") > 0  # kept from change to change
        for number in list(flows)[::3]:
            analysis = analysis.changed({number: flows[number]})
    except NoBound:
        return
    packets = [packet for number, flow in flows.items() for packet in packets_of(number, flow, pattern, chance)]
    ports = ShapedPorts(network, flows, chance)
    for number, (least_us, most_us) in ports.run(packets).items():
        for bound in (fresh.bound(number), analysis.bound(number)):
            assert most_us <= bound.accumulated_latency_us + 0.01
            assert most_us - least_us <= bound.latency_variation_us + 0.01
    for name, most_bytes in ports.most_bytes.items():
        assert most_bytes <= fresh.backlog_bytes(name)
        assert most_bytes <= analysis.backlog_bytes(name)


@given(loaded=loaded_rings())
@settings(max_examples=60, deadline=None)
def test_bounds_after_changes_are_those_of_a_new_analysis_or_little_more(
    loaded: tuple[Network, dict[int, ShapedFlow]],
) -> None:
    network, flows = loaded
    small = replace(network, links={name: replace(link, queue_bytes=75_000) for name, link in network.links.items()})
    analysis: Analysis[int] = Analysis.of(small, {}, HARDWARE)
    try:
        for number, flow in flows.items():
            analysis = analysis.changed({number: flow})
            assert {name for name in small.links if analysis.backlog_bytes(name) > 75_000} <= analysis.crowded_links
        fresh = Analysis.of(small, flows, HARDWARE)
    except NoBound:
        return
    for number in flows:
        fresh_us, bound_us = fresh.bound(number).accumulated_latency_us, analysis.bound(number).accumulated_latency_us
        assert fresh_us <= bound_us * (1 + 1e-5)
        assert bound_us <= fresh_us * 1.021


def two_switches(first: MapLink, ats: bool) -> Network:
    """Two hosts at each of two switches; `first`: the link of h0. All others are at 100 Mb/s."""
    nodes = [MapNode(f"s{i}", "switch", (float(i), 0.0)) for i in range(2)]
    nodes += [MapNode(f"h{i}", "edge", (float(i), 1.0)) for i in range(4)]
    others = [MapLink(ends, 0.0, 1, 100.0) for ends in (("s0", "s1"), ("h1", "s0"), ("h2", "s1"), ("h3", "s1"))]
    return network_from_map(Map("two", "", 1.0, 1500, tuple(nodes), (first, *others), ats=ats))


def at_once(number: int, sizes: list[int], moment_s: float = 0.0) -> list[Packet]:
    return [Packet(moment_s, order, number, 0, True, size, moment_s) for order, size in enumerate(sizes)]


@given(slope=st.floats(10.0, 49.0), frames=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_the_bound_of_a_credit_based_shaper_is_reached(slope: float, frames: int) -> None:
    """A burst whose last frame is small comes as late as the bound says, but for what that frame gains.

    Below half of the rate credit is negative behind every frame, so each can meet a frame in transmission.
    """
    network = two_switches(MapLink(("h0", "s0"), 0.0, 1, 100.0, idle_slope_gbps=slope), ats=False)
    sizes = [1514] * frames + [60]
    flow = ShapedFlow(("h0", "s0", "s1", "h2"), 1000, sum(sizes))
    bound_us = Analysis.of(network, {0: flow}, HARDWARE).delay_us("h0->s0")
    ports = ShapedPorts(network, {0: flow}, random.Random(0), blocked_share=1.0)
    ports.run(at_once(0, sizes))
    most_us = max(done_s for done_s, _ in ports.queues["h0->s0"]) * 1e6
    gain_us = 60 * 8 * (1 / slope - 1 / 100)
    assert bound_us - gain_us - 0.1 <= most_us <= bound_us + 0.001


def test_regulators_hold_what_came_together_behind_the_burst_of_another_flow() -> None:
    network = two_switches(MapLink(("h0", "s0"), 0.0, 1, 100.0), ats=True)
    flows = {
        0: ShapedFlow(("h0", "s0", "s1", "h2"), 40_000_000, 1514),
        1: ShapedFlow(("h1", "s0", "s1", "h3"), 1_000_000, 60_000),
    }
    gap_s, delay_s = 1514 * 8 / 40e6, 4e-4
    packets = [packet for i in range(60) for packet in at_once(0, [1514], i * gap_s)]
    packets += at_once(1, [1514] * 39, delay_s)
    ports = ShapedPorts(network, flows, random.Random(1), blocked_share=1.0)
    ports.run([replace(packet, order=order) for order, packet in enumerate(packets)])
    bound_bytes = Analysis.of(network, flows, HARDWARE).backlog_bytes("s1->h2")
    assert 3 * 1514 < ports.most_bytes["s1->h2"] <= bound_bytes
    assert ports.most_bytes["s1->h2"] > 0.25 * bound_bytes


def test_regulators_give_a_bound_on_a_ring_that_has_none_without() -> None:
    """Five flows round a ring of five, each over four spans, at 96 % of the load."""
    nodes = [MapNode(f"s{i}", "switch", (float(i), 0.0)) for i in range(5)]
    nodes += [MapNode(f"h{i}", "edge", (float(i), 1.0)) for i in range(5)]
    links = [MapLink((f"s{i}", f"s{(i + 1) % 5}"), 1.0, 1, 100.0) for i in range(5)]
    links += [MapLink((f"h{i}", f"s{i}"), 1.0, 1, 100.0) for i in range(5)]
    plain = Map("ring", "", 1.0, 1500, tuple(nodes), tuple(links))
    paths = [(f"h{i}", *(f"s{(i + hop) % 5}" for hop in range(5)), f"h{(i + 4) % 5}") for i in range(5)]
    flows = {i: ShapedFlow(path, 24_000_000, 1514) for i, path in enumerate(paths)}
    with pytest.raises(NoBound):
        Analysis.of(network_from_map(plain), flows, HARDWARE)
    delays_us = Analysis.of(network_from_map(replace(plain, ats=True)), flows, HARDWARE).link_delays_us()
    assert delays_us["s0->s1"] == pytest.approx(5 * 1514 * 8 / 100)  # four bursts and one frame in transmission
