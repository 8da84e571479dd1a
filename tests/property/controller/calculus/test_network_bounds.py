"""No simulated packet exceeds its flow's bound, and no queue its own, for any network, flows, paths, phases, frames."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.network_bounds import Analysis, Calibration, NoBound, ShapedFlow, bounds_of
from controller.calculus.programme_bounds import programme_bounds
from controller.domain.network import DirectedLink, Network, network_from_map
from controller.domain.reservation import Window
from controller.routing.candidates import candidate_paths
from topologies.map_file.loader import load_map
from topologies.maps import Map, MapLink, MapNode

METRO = network_from_map(load_map("metro"))
CALIBRATION = Calibration(clock_us=0.0)
HARDWARE = Calibration(5.0, 5.0, 0.0, 0.0, 0.0, best_effort_frame_bytes=0)
"""Exact meters, links without a shaper, no other traffic."""
PERIOD_US = 1_500_000
PATTERNS = ("all at once", "greedy from any moment", "saves up and bursts", "as it comes")


def ring(switches: int, chord: tuple[int, int] | None) -> Network:
    """A ring with a host at every switch, and perhaps a chord."""
    nodes = [MapNode(f"s{i}", "switch", (float(i), 0.0)) for i in range(switches)]
    nodes += [MapNode(f"h{i}", "edge", (float(i), 1.0)) for i in range(switches)]
    spans = {frozenset({i, (i + 1) % switches}) for i in range(switches)}
    if chord and chord[0] != chord[1] and max(chord) < switches:
        spans.add(frozenset(chord))
    links = [MapLink((f"s{min(pair)}", f"s{max(pair)}"), 10.0, 1, 100.0) for pair in sorted(map(sorted, spans))]
    links += [MapLink((f"h{i}", f"s{i}"), 1.0, 1, 100.0) for i in range(switches)]
    return network_from_map(Map("ring", "", 0.8, 9000, tuple(nodes), tuple(links)))


@st.composite
def loaded_networks(draw: st.DrawFn) -> tuple[Network, dict[int, ShapedFlow]]:
    """A ring on which flows go round far enough to depend on each other in a circle, or the metro map."""
    if draw(st.integers(0, 3)) == 0:
        return METRO, dict(enumerate(draw(st.lists(metro_flows(), min_size=1, max_size=8))))
    switches = draw(st.integers(3, 6))
    network = ring(switches, draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5))))
    flows = {}
    most_bps = draw(st.sampled_from((8_000_000, 16_000_000, 25_000_000)))
    for number in range(draw(st.integers(2, 10))):
        first, hops = draw(st.integers(0, switches - 1)), draw(st.integers(1, switches - 1))
        way = draw(st.sampled_from((1, 1, 1, -1)))
        passed = [(first + way * hop) % switches for hop in range(hops + 1)]
        path = (f"h{first}", *(f"s{i}" for i in passed), f"h{passed[-1]}")
        rate_bps, burst_bytes = draw(st.integers(1_000_000, most_bps)), draw(st.integers(9014, 60_000))
        flows[number] = ShapedFlow(path, rate_bps, burst_bytes, draw(activities()))
    return network, flows


@st.composite
def metro_flows(draw: st.DrawFn) -> ShapedFlow:
    source, destination = draw(st.permutations([host.name for host in METRO.hosts]))[:2]
    path = draw(st.sampled_from(candidate_paths(METRO, source, destination)))
    rate_bps, burst_bytes = draw(st.integers(1_000_000, 12_000_000)), draw(st.integers(9014, 60_000))
    return ShapedFlow(path, rate_bps, burst_bytes, draw(activities()))


@st.composite
def activities(draw: st.DrawFn) -> Activity:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        slot = draw(st.integers(0, 2))
        return Activity(window=Window(PERIOD_US, slot * PERIOD_US // 3, draw(st.integers(20_000, 300_000))))
    if kind == 1:
        start_s = draw(st.sampled_from((0.0, 0.5, 1.0)))
        return Activity(start_s, start_s + draw(st.sampled_from((0.1, 0.4, 1.5))))
    return ALWAYS


@dataclass(frozen=True, order=True)
class Packet:
    """On its way: ready at a port at `now_s`; the rest says whose it is and where."""

    now_s: float
    chance: int
    number: int
    hop: int
    frame_bytes: int
    sent_s: float


class Queues:
    """The model's own network: store and forward, FIFO ports, a best-effort frame in the way of whatever comes to an
    idle port, shapers that let some frames through at once, switches that take now least and now most of their time.
    """

    def __init__(
        self,
        network: Network,
        flows: Mapping[int, ShapedFlow],
        chance: random.Random,
        calibration: Calibration = CALIBRATION,
    ) -> None:
        self.network = network
        self.calibration = calibration
        self.chance = chance
        self.links = {number: network.links_along(flow.path) for number, flow in flows.items()}
        self.free_at_s: dict[str, float] = {}
        self.left_at_s: dict[str, float] = {}
        self.last_ready: dict[str, tuple[float, int]] = {}
        self.delays_us: dict[int, tuple[float, float]] = {}
        self.queues: dict[str, deque[tuple[float, int]]] = {}
        self.most_bytes: dict[str, int] = {}

    def run(self, packets: list[Packet]) -> dict[int, tuple[float, float]]:
        """The shortest and longest delay of each flow's packets."""
        heapq.heapify(packets)
        while packets:
            packet = heapq.heappop(packets)
            links = self.links[packet.number]
            link = links[packet.hop]
            done_s = self._transmit(link, packet)
            if packet.hop + 1 < len(links):
                work_us = self.chance.choice((self.calibration.switch_min_us, self.calibration.switch_max_us))
                # A switch keeps the order of what comes in over one link, also at the same moment.
                before_s, before = self.last_ready.get(link.name, (0.0, 0))
                ready_s = max(done_s + (link.propagation_us + work_us) / 1e6, before_s)
                tie = self.chance.getrandbits(30) + (before + 1 if ready_s == before_s else 0)
                self.last_ready[link.name] = ready_s, tie
                heapq.heappush(packets, replace(packet, now_s=ready_s, chance=tie, hop=packet.hop + 1))
            else:
                delay_us = (done_s - packet.sent_s) * 1e6 + link.propagation_us
                least, most = self.delays_us.get(packet.number, (delay_us, delay_us))
                self.delays_us[packet.number] = min(least, delay_us), max(most, delay_us)
        return self.delays_us

    def _transmit(self, link: DirectedLink, packet: Packet) -> float:
        name, frame_s = link.name, self.network.max_frame_bytes * 8 / link.capacity_bps
        if self.free_at_s.get(name, 0.0) <= packet.now_s:
            other_bits = self.calibration.other_frame_bits(self.network.max_frame_bytes * 8)
            self.free_at_s[name] = packet.now_s + other_bits / link.capacity_bps
        self.free_at_s[name] += packet.frame_bytes * 8 / link.capacity_bps
        shaper_s = self.calibration.shaper_burst_us / 1e6
        at_once_s = self.chance.choice((0.0, max(2 * frame_s, shaper_s) if shaper_s else 0.0))
        quickest_s = packet.now_s + packet.frame_bytes * 8 / link.capacity_bps
        done_s = max(quickest_s, self.free_at_s[name] - at_once_s, self.left_at_s.get(name, 0.0))
        self.left_at_s[name] = done_s
        self._enqueue(name, packet, done_s)
        return done_s

    def _enqueue(self, name: str, packet: Packet, done_s: float) -> None:
        """A packet is in the queue, whole, from its arrival until its last bit is sent."""
        queue = self.queues.setdefault(name, deque())
        while queue and queue[0][0] <= packet.now_s:
            queue.popleft()
        queue.append((done_s, packet.frame_bytes))
        self.most_bytes[name] = max(self.most_bytes.get(name, 0), sum(size for _, size in queue))


def packets_of(
    number: int,
    flow: ShapedFlow,
    pattern: str,
    network: Network,
    chance: random.Random,
    calibration: Calibration = CALIBRATION,
) -> list[Packet]:
    """A source within its bucket and its activity."""
    depth = flow.burst_bytes + flow.rate_bps / 8 * calibration.meter_tick_us / 1e6
    moment_s, tokens = 0.0 if pattern == "all at once" else chance.uniform(0, 0.05), depth
    packets: list[Packet] = []
    while moment_s < 3.0 and len(packets) < 60:
        frame_bytes = min(chance.choice((60, 1514, *[network.max_frame_bytes] * 4)), flow.burst_bytes)
        wait_s = max(0.0, (frame_bytes - tokens) * 8 / flow.rate_bps)
        if (pattern == "saves up and bursts" and chance.random() < 0.1) or pattern == "as it comes":
            wait_s += chance.expovariate(flow.rate_bps / (8 * 20_000))
        following_s = next_active_s(flow.activity, moment_s + wait_s)
        if following_s is None:
            break
        tokens = min(depth, tokens + (following_s - moment_s) * flow.rate_bps / 8) - frame_bytes
        moment_s = following_s
        packets.append(Packet(moment_s, chance.getrandbits(30), number, 0, frame_bytes, moment_s))
    return packets


def next_active_s(activity: Activity, moment_s: float) -> float | None:
    """The first moment from this one on at which the source may send."""
    moment_s = max(moment_s, activity.start_s)
    if activity.window is not None:
        period_s = activity.window.period_us / 1e6
        since_s = (moment_s - activity.window.offset_us / 1e6) % period_s
        if since_s >= activity.window.length_us / 1e6:
            moment_s += period_s - since_s + 1e-9
    return moment_s if moment_s < activity.end_s else None


@given(loaded=loaded_networks(), pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_packet_is_later_than_its_bound(
    loaded: tuple[Network, dict[int, ShapedFlow]], pattern: str, seed: int
) -> None:
    network, flows = loaded
    chance = random.Random(seed)
    analysis: Analysis[int] = Analysis.of(network, {}, CALIBRATION)
    try:
        whole = bounds_of(network, flows, CALIBRATION)
        for number, flow in flows.items():
            analysis = analysis.changed({number: flow})
    except NoBound:
        return
    packets = [packet for i, flow in flows.items() for packet in packets_of(i, flow, pattern, network, chance)]
    queues = Queues(network, flows, chance)
    delays_us = queues.run(packets)
    fresh = Analysis.of(network, flows, CALIBRATION)
    for link, most_bytes in queues.most_bytes.items():
        assert most_bytes <= fresh.backlog_bytes(link)
        assert most_bytes <= analysis.backlog_bytes(link)
    for number, (least_us, most_us) in delays_us.items():
        for bound in (whole[number], analysis.bound(number)):
            assert most_us <= bound.accumulated_latency_us + 0.01
            assert most_us - least_us <= bound.latency_variation_us + 0.01


@given(loaded=loaded_networks())
@settings(max_examples=60, deadline=None)
def test_every_queue_that_may_be_too_small_is_found_after_any_changes(
    loaded: tuple[Network, dict[int, ShapedFlow]],
) -> None:
    network, flows = loaded
    small = replace(network, links={name: replace(link, queue_bytes=75_000) for name, link in network.links.items()})
    analysis: Analysis[int] = Analysis.of(small, {}, CALIBRATION)
    try:
        for number, flow in flows.items():
            analysis = analysis.changed({number: flow})
            overfull = {name for name in small.links if analysis.backlog_bytes(name) > 75_000}
            assert overfull <= analysis.crowded_links
        for number in list(flows)[::2]:
            analysis = analysis.changed({}, [number])
    except NoBound:
        return
    without_memory = Analysis(small, CALIBRATION, analysis._delays)
    for name in small.links:
        assert analysis.backlog_bytes(name) == without_memory.backlog_bytes(name)


@given(loaded=loaded_networks(), pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_packet_is_later_than_its_bound_by_linear_programmes(
    loaded: tuple[Network, dict[int, ShapedFlow]], pattern: str, seed: int
) -> None:
    """Also where total-flow analysis has no bound; where it has one, that is not less."""
    network, flows = loaded
    chance = random.Random(seed)
    bounds = programme_bounds(network, flows, CALIBRATION)
    try:
        for number, bound in bounds_of(network, flows, CALIBRATION).items():
            assert bounds[number].accumulated_latency_us <= bound.accumulated_latency_us * (1 + 1e-9)
    except NoBound:
        pass
    packets = [packet for i, flow in flows.items() for packet in packets_of(i, flow, pattern, network, chance)]
    for number, (least_us, most_us) in Queues(network, flows, chance).run(packets).items():
        if number in bounds:
            assert most_us <= bounds[number].accumulated_latency_us + 0.01
            assert most_us - least_us <= bounds[number].latency_variation_us + 0.01


@given(loaded=loaded_networks(), pattern=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_packet_is_later_than_its_bound_on_hardware_without_other_traffic(
    loaded: tuple[Network, dict[int, ShapedFlow]], pattern: str, seed: int
) -> None:
    network, flows = loaded
    chance = random.Random(seed)
    try:
        bounds = bounds_of(network, flows, HARDWARE)
    except NoBound:
        return
    facts = pattern, network, chance, HARDWARE
    packets = [packet for i, flow in flows.items() for packet in packets_of(i, flow, *facts)]
    for number, (least_us, most_us) in Queues(network, flows, chance, HARDWARE).run(packets).items():
        assert most_us <= bounds[number].accumulated_latency_us + 0.01
        assert most_us - least_us <= bounds[number].latency_variation_us + 0.01


@given(loaded=loaded_networks())
@settings(max_examples=40, deadline=None)
def test_removing_a_flow_never_increases_another_bound(loaded: tuple[Network, dict[int, ShapedFlow]]) -> None:
    network, flows = loaded
    try:
        before = bounds_of(network, flows, CALIBRATION)
    except NoBound:
        return
    fewer = {number: flow for number, flow in flows.items() if number != 0}
    for number, bound in bounds_of(network, fewer, CALIBRATION).items():
        assert bound.accumulated_latency_us <= before[number].accumulated_latency_us * (1 + 1e-5)


def test_a_single_flow_is_delayed_by_its_burst_and_one_best_effort_frame_per_port() -> None:
    """By hand, without jitter: edge1 -> r6 -> r1 -> r2 -> cloud, four ports, three switches, 46 km."""
    exact = Calibration(switch_min_us=50, switch_max_us=50, meter_tick_us=0, shaper_burst_us=0)
    path = candidate_paths(METRO, "edge1", "cloud")[0]
    bound = bounds_of(METRO, {0: ShapedFlow(path, 1000, 9000)}, exact)[0]
    frames_us = (9000 + 9014) * 8 / 80  # the burst and a best-effort frame at 80 Mb/s
    by_hand_us = 3 * frames_us + frames_us / 2 + 3 * 50 + 46 * 4.9
    assert abs(bound.accumulated_latency_us - by_hand_us) < 0.2  # 1 kb/s of growth


def test_an_unstable_port_has_no_bound() -> None:
    path = candidate_paths(METRO, "edge1", "cloud")[0]
    with pytest.raises(NoBound) as refusal:
        bounds_of(METRO, {number: ShapedFlow(path, 41_000_000, 9014) for number in (1, 2)})
    assert refusal.value.link in {f"{a}->{b}" for a, b in pairwise(path)}
