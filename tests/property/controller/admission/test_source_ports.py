"""Whatever other flows its host gets, a flow that keeps to its burst and rate passes its meter whole."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.admission.source_ports import SourcePorts
from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.calculus.ports import Calibration, ports_of
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import METER_TICKS_PER_S, least_burst_bytes
from controller.domain.route import Route
from topologies.maps import Map, MapLink, MapNode

LINK = "h->s"
CALIBRATION = Calibration()
LARGEST_BYTES = 1514
SHARE = 0.9
TOLERANCE = 1e-6
"""Bits and microseconds of rounding."""

Packet = tuple[float, FlowKey, int]
"""When its source sends it in us, its flow, its size in bytes."""


def network(capacity_mbps: int) -> Network:
    nodes = (MapNode("h", "host", (0, 0)), MapNode("s", "switch", (1, 0)), MapNode("d", "host", (2, 0)))
    links = tuple(MapLink(ends, 1, 1, capacity_mbps) for ends in (("h", "s"), ("s", "d")))
    return network_from_map(Map("one", "", 1000, 1500, nodes, links))


@st.composite
def histories(draw: st.DrawFn) -> tuple[Network, list[dict[FlowKey, CarriedFlow]]]:
    """Reservations that one host gets, one after the other."""
    capacity_mbps = draw(st.sampled_from([20, 100, 400]))
    count = draw(st.integers(1, 6))
    weights = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    reservations: list[dict[FlowKey, CarriedFlow]] = []
    for number, weight in enumerate(weights):
        rate_bps = int(capacity_mbps * 1e6 * SHARE * weight / sum(weights))
        least_bytes = least_burst_bytes(rate_bps, LARGEST_BYTES)
        burst_bytes = least_bytes + draw(st.one_of(st.just(0), st.integers(0, 60_000)))
        flow = CarriedFlow(Route(("h", "s", "d")), rate_bps, burst_bytes)
        if not reservations or draw(st.booleans()):
            reservations.append({})
        reservations[-1][f"r-{len(reservations)}", f"f{number}"] = flow
    return network(capacity_mbps), reservations


def sent_at_once(flow: CarriedFlow) -> float:
    """By how many bits a sender may exceed its rate at any moment, as documented for the burst."""
    tick_bits = flow.rate_bps / METER_TICKS_PER_S
    return max(LARGEST_BYTES * 8.0, flow.burst_bytes * 8 - 2 * tick_bits)


def conforming(key: FlowKey, flow: CarriedFlow, chance: random.Random, until_us: float) -> Iterable[Packet]:
    """Packets of one flow: bursts as large as allowed at some moments, exactly at the rate at others."""
    most_bits, rate = sent_at_once(flow), flow.rate_bps / 1e6
    tokens, now_us = most_bits, chance.choice((0.0, 0.0, chance.random() * 5000))
    while now_us < until_us:
        size_bytes = chance.choice((LARGEST_BYTES, LARGEST_BYTES, 60 + chance.randrange(LARGEST_BYTES - 60)))
        pause_us = chance.random() * most_bits / rate if chance.random() < 0.02 else 0.0
        missing_us = max(0.0, size_bytes * 8 - tokens) / rate
        elapsed_us = max(pause_us, missing_us)
        now_us += elapsed_us
        tokens = min(most_bits, tokens + rate * elapsed_us) - size_bytes * 8
        yield now_us, key, size_bytes


def delivered(net: Network, packets: Iterable[Packet], chance: random.Random) -> list[Packet]:
    """The packets as the meters see them: behind the host's port, its best effort and the switch's processing."""
    rate = net.links[LINK].capacity_bps / 1e6
    free_us, last_us, arrivals = 0.0, 0.0, []
    for sent_us, key, size_bytes in sorted(packets):
        if sent_us > free_us and chance.random() < 0.5:
            free_us = sent_us + chance.random() * LARGEST_BYTES * 8 / rate  # best effort in transmission
        free_us = max(free_us, sent_us) + size_bytes * 8 / rate
        waits_us = chance.choice((CALIBRATION.switch_min_us, CALIBRATION.switch_max_us))
        last_us = max(last_us, free_us + waits_us)
        arrivals.append((last_us, key, size_bytes))
    return arrivals


class Meter:
    """A meter of Open vSwitch: refilled by whole milliseconds, for one packet by no more of them than it holds."""

    def __init__(self, flow: CarriedFlow, phase_us: float) -> None:
        assert flow.meter_burst_bytes is not None
        self.burst_bits = ceil(flow.meter_burst_bytes * 8 / 1000) * 1000
        self.tick_bits = flow.rate_bps / METER_TICKS_PER_S
        self.bits, self.phase_us, self.used_ms = float(self.burst_bits), phase_us, 0

    def passes(self, size_bytes: int, now_us: float) -> bool:
        now_ms = int((now_us + self.phase_us) // 1000)
        ticks = min(now_ms - self.used_ms, int(self.burst_bits // self.tick_bits))
        self.bits, self.used_ms = min(self.burst_bits, self.bits + ticks * self.tick_bits), now_ms
        if self.bits + TOLERANCE < size_bytes * 8:
            return False
        self.bits -= size_bytes * 8
        return True


def admitted(net: Network, reservations: Iterable[Mapping[FlowKey, CarriedFlow]]) -> dict[FlowKey, CarriedFlow]:
    ports, flows = SourcePorts(net, CALIBRATION), {}
    for reservation in reservations:
        ports, metered = ports.with_flows(reservation, {})
        flows.update(metered)
    return flows


@given(histories(), st.integers(0, 2**32).map(random.Random))
@settings(max_examples=60)
def test_flows_of_one_host_that_keep_to_their_buckets_lose_nothing(
    history: tuple[Network, list[dict[FlowKey, CarriedFlow]]], chance: random.Random
) -> None:
    net, reservations = history
    flows = admitted(net, reservations)
    sent = [packet for key, flow in flows.items() for packet in conforming(key, flow, chance, 100_000)]
    meters = {key: Meter(flow, chance.random() * 1000) for key, flow in flows.items()}
    for now_us, key, size_bytes in delivered(net, sent, chance):
        assert meters[key].passes(size_bytes, now_us), (key, now_us, flows[key])


@given(histories())
def test_the_room_of_a_meter_covers_its_port_and_never_becomes_less(
    history: tuple[Network, list[dict[FlowKey, CarriedFlow]]],
) -> None:
    net, reservations = history
    ports, before = SourcePorts(net, CALIBRATION), dict[FlowKey, int]()
    for reservation in reservations:
        ports, _ = ports.with_flows(reservation, {})
        port = ports.ports[LINK]
        assert min(port.room_us.values()) >= port.delay_us(ports_of(net, CALIBRATION)[LINK], 0.0)
        assert port.least_room_us <= min(port.room_us.values())
        after = {key: flow.meter_burst_bytes or 0 for key, flow in port.flows.items()}
        assert all(after[key] >= burst_bytes for key, burst_bytes in before.items())
        before = after


@given(histories())
def test_a_flow_alone_on_its_host_gets_no_more_than_its_port_may_add(
    history: tuple[Network, list[dict[FlowKey, CarriedFlow]]],
) -> None:
    """Its burst behind the port was counted with the whole variation of the port's delay and of the switch's."""
    net, reservations = history
    key, flow = next(iter(reservations[0].items()))
    _, metered = SourcePorts(net, CALIBRATION).with_flows({key: flow}, {})
    server = ports_of(net, CALIBRATION)[LINK]
    delay_us = server.latency_us + flow.burst_bytes * 8 / server.rate_bps * 1e6
    variation_us = delay_us - server.min_delay_us + CALIBRATION.switch_variation_us
    most_bits = flow.burst_bytes * 8 + flow.rate_bps * variation_us / 1e6
    tick_bits = flow.rate_bps / METER_TICKS_PER_S
    is_small = flow.burst_bytes * 8 < net.max_frame_bytes * 8 + 2 * tick_bits
    assert (metered[key].meter_burst_bytes or 0) * 8 <= most_bits + (tick_bits if is_small else 0) + 1000
