"""No packet is later than the bound of the linear programmes, whatever an adversary does; how near it comes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.calculus.curves import Server, ShapingCurve
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound, Stream, fixed_point_delays
from controller.calculus.path_bounds import PathBounds
from harness.published_networks import Case, ring, tandem, total_flow_delays
from tests.property.controller.calculus.adversary import Adversary, simulate

RATE_BPS = 1e8


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, Server], dict[int, Stream], float]:
    """Up to five servers in a circle or a row with up to six flows, and the size of all packets in bit."""
    packet_bits = draw(st.sampled_from((1000.0, 4000.0, 12_000.0)))
    size = draw(st.integers(2, 5))
    servers = {}
    for number in range(size):
        rate_bps = draw(st.sampled_from((1.0, 1.0, 0.7, 2.0))) * RATE_BPS
        jitter_us = draw(st.sampled_from((0.0, 0.0, 30.0)))
        servers[f"s{number}"] = Server(
            rate_bps, draw(st.sampled_from((0.0, 10.0, 120.0))), packet_bits / rate_bps * 1e6,
            jitter_us + draw(st.sampled_from((0.0, 15.0))), jitter_us,
            draw(st.sampled_from((None, ShapingCurve(packet_bits + jitter_us * rate_bps / 1e6, rate_bps)))),
        )  # fmt: skip
    is_ring, flows = draw(st.booleans()), draw(st.integers(2, 6))
    load = draw(st.floats(0.3, 0.97))
    paths = []
    for _ in range(flows):
        first = draw(st.integers(0, size - 1))
        hops = draw(st.integers(1, size if is_ring else size - first))
        paths.append(tuple(f"s{(first + hop) % size}" for hop in range(hops)))
    busiest = max(sum(name in path for path in paths) / servers[name].rate_bps for name in servers)
    streams = {
        number: Stream(path, load / busiest, packet_bits * draw(st.integers(1, 4))) for number, path in enumerate(paths)
    }
    return servers, streams, packet_bits


def delays_of(servers: dict[str, Server], streams: dict[int, Stream]) -> dict[str, float]:
    try:
        return fixed_point_delays(servers, list(streams.values()))
    except NoBound:
        return {}


@given(drawn=networks(), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_adversary_exceeds_a_bound(drawn: tuple[dict[str, Server], dict[int, Stream], float], seed: int) -> None:
    servers, streams, packet_bits = drawn
    network = FifoNetwork.of(servers, streams, packet_bits)
    bounds = PathBounds(network, delays_of(servers, streams))
    try:
        bounds.analyse(3)
    except NoBound:
        return
    chance = random.Random(seed)
    for victim in range(len(streams)):
        proven_us = bounds.bound_us(victim)
        adversary = Adversary(network, packet_bits / 1e3, victim, chance)
        assert adversary.search(restarts=1, steps=4) <= proven_us + 1e-6
        for _ in range(3):
            outcome = simulate(network, packet_bits / 1e3, adversary.random_traffic(), victim, chance)
            assert outcome.delay_us <= proven_us + 1e-6


def with_packets(case: Case, packet_bits: float) -> Case:
    """The network with a whole packet at once on every line."""
    line = ShapingCurve(packet_bits, RATE_BPS)
    return {name: replace(server, output_shaping=line) for name, server in case[0].items()}, case[1]


def bound_us(case: Case, packet_bits: float) -> float:
    """The bound of flow 0 with packets of this size, 0 for a fluid."""
    bounds = PathBounds(FifoNetwork.of(*case, packet_bits), total_flow_delays(case))
    bounds.analyse()
    return bounds.bound_us(0)


def ratio(case: Case, packet_bits: float, restarts: int) -> tuple[float, float]:
    """The largest delay of flow 0 over its bound: found by the adversary, and by as many random simulations."""
    packets = with_packets(case, packet_bits)
    network = FifoNetwork.of(*packets, packet_bits)
    proven_us = bound_us(packets, packet_bits)
    adversary = Adversary(network, packet_bits / 1e3, 0, random.Random(1))
    found_us = adversary.search(restarts, steps=30)
    random_traffic = [adversary.random_traffic() for _ in range(adversary.simulations)]
    random_us = max(simulate(network, packet_bits / 1e3, traffic, 0).delay_us for traffic in random_traffic)
    return found_us / proven_us, random_us / proven_us


@pytest.mark.parametrize("size", [3, 4])
def test_the_adversary_exceeds_what_would_hold_for_a_fluid(size: int) -> None:
    """So packets need their own bounds, and a bound that is too small is found."""
    case = with_packets(tandem(size, 0.6), 12_000.0)
    found_us = Adversary(FifoNetwork.of(*case, 12_000.0), 12.0, 0, random.Random(1)).search(6, 30)
    assert bound_us(case, 0.0) * 1.3 < found_us <= bound_us(case, 12_000.0)


@pytest.mark.parametrize(
    ("case", "packet_bits", "least"),
    [(tandem(2, 0.6), 1200.0, 0.999), (tandem(4, 0.6), 12_000.0, 0.92), (ring(3, 0.6), 1200.0, 0.68)],
)
def test_the_adversary_comes_near_the_bound_and_nearer_than_chance(
    case: Case, packet_bits: float, least: float
) -> None:
    found, by_chance = ratio(case, packet_bits, restarts=4)
    assert least <= found <= 1.0
    assert found >= by_chance
