"""No simulated packet is ever later than its flow's bound, whatever the flows, paths, phases and sizes."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.bounds import Calibration, NoBound, ShapedFlow, bounds_of
from controller.network import DirectedLink, network_from_map
from controller.paths import candidate_paths
from topologies.loader import load_map

NETWORK = network_from_map(load_map("metro"))
HOSTS = [host.name for host in NETWORK.hosts]
CALIBRATION = Calibration()


@st.composite
def shaped_flows(draw: st.DrawFn) -> dict[int, ShapedFlow]:
    flows = {}
    for number in range(draw(st.integers(1, 8))):
        source, destination = draw(st.permutations(HOSTS))[:2]
        path = draw(st.sampled_from(candidate_paths(NETWORK, source, destination)))
        rate_bps = draw(st.integers(1_000_000, 12_000_000))
        flows[number] = ShapedFlow(path, rate_bps, draw(st.integers(9014, 60_000)))
    return flows


def simulated_delays_us(flows: Mapping[int, ShapedFlow], chance: random.Random) -> dict[int, tuple[float, float]]:
    """The shortest and longest delay of each flow's packets: greedy sources, store and forward, FIFO ports.

    Each port is found busy with the largest best-effort frame whenever a reserved packet comes to an idle port.
    """
    links = {number: NETWORK.links_along(flow.path) for number, flow in flows.items()}
    events: list[tuple[float, int, int, int, int, float]] = []
    for number, flow in flows.items():
        events += _packets(number, flow, chance)
    heapq.heapify(events)
    free_at_s: dict[str, float] = {}
    delays: dict[int, tuple[float, float]] = {}
    while events:
        now_s, _, number, hop, frame_bytes, sent_s = heapq.heappop(events)
        link = links[number][hop]
        done_s = _transmit(link, now_s, frame_bytes, free_at_s)
        if hop + 1 < len(links[number]):
            work_us = chance.choice((CALIBRATION.switch_min_us, CALIBRATION.switch_max_us))
            # A switch keeps the order of what comes in over one link.
            ready_s = max(done_s + (link.propagation_us + work_us) / 1e6, free_at_s.get("in " + link.name, 0.0))
            free_at_s["in " + link.name] = ready_s
            heapq.heappush(events, (ready_s, chance.getrandbits(30), number, hop + 1, frame_bytes, sent_s))
        else:
            delay_us = (done_s - sent_s) * 1e6 + link.propagation_us
            least, most = delays.get(number, (delay_us, delay_us))
            delays[number] = min(least, delay_us), max(most, delay_us)
    return delays


def _packets(
    number: int, flow: ShapedFlow, chance: random.Random
) -> list[tuple[float, int, int, int, int, float]]:
    """A source that sends all its bucket holds at once, then at its rate, from a random moment on."""
    moment_s, tokens = chance.uniform(0, 0.02), float(flow.burst_bytes)
    packets = []
    for _ in range(60):
        frame_bytes = min(chance.choice((60, 1514, NETWORK.frame_bytes)), flow.burst_bytes)
        wait_s = max(0.0, (frame_bytes - tokens) * 8 / flow.rate_bps)
        moment_s, tokens = moment_s + wait_s, tokens + wait_s * flow.rate_bps / 8 - frame_bytes
        packets.append((moment_s, chance.getrandbits(30), number, 0, frame_bytes, moment_s))
    return packets


def _transmit(link: DirectedLink, now_s: float, frame_bytes: int, free_at_s: dict[str, float]) -> float:
    if free_at_s.get(link.name, 0.0) <= now_s:
        free_at_s[link.name] = now_s + NETWORK.frame_bytes * 8 / link.capacity_bps
    free_at_s[link.name] += frame_bytes * 8 / link.capacity_bps
    return free_at_s[link.name]


@given(flows=shaped_flows(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_no_packet_is_later_than_its_bound(flows: dict[int, ShapedFlow], seed: int) -> None:
    try:
        bounds = bounds_of(NETWORK, flows, CALIBRATION)
    except NoBound:
        return
    for number, (least_us, most_us) in simulated_delays_us(flows, random.Random(seed)).items():
        assert most_us <= bounds[number].accumulated_latency_us + 0.01
        assert most_us - least_us <= bounds[number].latency_variation_us + 0.01


@given(flows=shaped_flows())
@settings(max_examples=40, deadline=None)
def test_one_flow_less_never_makes_another_later(flows: dict[int, ShapedFlow]) -> None:
    try:
        before = bounds_of(NETWORK, flows, CALIBRATION)
    except NoBound:
        return
    fewer = {number: flow for number, flow in flows.items() if number != 0}
    for number, bound in bounds_of(NETWORK, fewer, CALIBRATION).items():
        assert bound.accumulated_latency_us <= before[number].accumulated_latency_us + 0.01


def test_a_lone_flow_waits_for_its_burst_and_one_best_effort_frame_at_each_port() -> None:
    """By hand, without jitter: edge1 -> r6 -> r1 -> r2 -> cloud, four ports, three switches, 46 km."""
    exact = Calibration(switch_min_us=50, switch_max_us=50, meter_tick_us=0, shaper_burst_us=0)
    path = candidate_paths(NETWORK, "edge1", "cloud")[0]
    bound = bounds_of(NETWORK, {0: ShapedFlow(path, 1000, 9000)}, exact)[0]
    frames_us = (9000 + 9014) * 8 / 80  # the burst and a best-effort frame at 80 Mb/s
    by_hand_us = 3 * frames_us + frames_us / 2 + 3 * 50 + 46 * 4.9
    assert abs(bound.accumulated_latency_us - by_hand_us) < 0.2  # 1 kb/s of growth


def test_a_port_that_is_overbooked_has_no_bound() -> None:
    path = candidate_paths(NETWORK, "edge1", "cloud")[0]
    try:
        bounds_of(NETWORK, {number: ShapedFlow(path, 41_000_000, 9014) for number in (1, 2)})
    except NoBound as unbounded:
        assert unbounded.link in {"edge1->r6", "r6->r1", "r1->r2"}
    else:
        raise AssertionError("82 of 80 Mb/s were given a bound")
