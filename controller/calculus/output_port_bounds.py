"""The bounds of all flows of an output-port network by total-flow analysis and by linear programmes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from controller.calculus.curves import Server, ShapingCurve
from controller.calculus.cut_bursts import Clock, no_limit
from controller.calculus.fifo_network import (
    KBIT,
    KBIT_PER_US,
    FifoFlow,
    FifoNetwork,
    FifoServer,
    RateLatency,
    TokenBucket,
)
from controller.calculus.fixed_point import NoBound, Stream, fixed_point_delays
from controller.calculus.output_port_network import OutputPort, OutputPortNetwork
from controller.calculus.path_bounds import FORESTS, ROUNDS, PathBounds


@dataclass(frozen=True, slots=True)
class FlowBounds:
    """The bounds of a flow in us; None where the method has none."""

    total_flow_us: float | None
    linear_program_us: float | None


def output_port_bounds(
    network: OutputPortNetwork, remaining_s: Clock = no_limit, forests: int = FORESTS, rounds: int = ROUNDS
) -> list[FlowBounds]:
    """Return the bounds of all flows, in the order of the network; the second is never above the first.

    `remaining_s`: the linear programmes stop when no time is left; what they have proven by then counts.
    """
    delays_us, bucket = _total_flow_delays(network)
    bounds = PathBounds(fifo_network(network, bucket), delays_us, remaining_s)
    with suppress(NoBound):  # each flow is asked below
        bounds.analyse(forests, rounds)
    results = []
    for number, flow in enumerate(network.flows):
        total_us = sum(delays_us[name] for name in flow.path) if delays_us else None
        try:
            results.append(FlowBounds(total_us, bounds.bound_us(number)))
        except NoBound:
            results.append(FlowBounds(total_us, None))
    return results


def fifo_network(network: OutputPortNetwork, bucket: int = 0) -> FifoNetwork:
    """Return the network for the linear programmes; behind cuts, flows have bucket number `bucket` (0 or -1)."""
    packets = _packets(network)
    crossed = {name for flow in network.flows for name in flow.path}
    servers = {
        name: FifoServer(
            tuple(RateLatency(rate_bps / KBIT_PER_US, latency_us) for rate_bps, latency_us in port.curves),
            None if port.capacity_bps is None
            else TokenBucket(packets[name] / KBIT, port.capacity_bps / KBIT_PER_US),
            packets[name] / KBIT,
        )
        for name, port in network.servers.items() if name in crossed
    }  # fmt: skip
    flows = []
    for flow in network.flows:
        buckets = [TokenBucket(burst_bits / KBIT, rate_bps / KBIT_PER_US) for burst_bits, rate_bps in flow.buckets]
        first = buckets.pop(bucket)
        flows.append(FifoFlow(flow.path, (first, *buckets)))
    return FifoNetwork(servers, tuple(flows))


def _total_flow_delays(network: OutputPortNetwork) -> tuple[dict[str, float], int]:
    """Return the delays of all servers in us, empty where there are none, and the buckets they are for.

    Total-flow analysis has one curve for each server and flow: those of the least latency and burst where they give
    bounds, else those of the highest service rate and the lowest arrival rate.
    """
    for number in (0, -1):
        try:
            return fixed_point_delays(*servers_and_streams(network, number)), number
        except NoBound:
            continue
    return {}, 0 if _is_stable(network, 0) else -1


def servers_and_streams(network: OutputPortNetwork, number: int = 0) -> tuple[dict[str, Server], list[Stream]]:
    """Return the network for total-flow analysis, with curve number `number` (0 or -1) of each server and flow."""
    streams = [Stream(flow.path, flow.buckets[number][1], flow.buckets[number][0]) for flow in network.flows]
    packets = _packets(network)
    return {name: _server(port, packets[name], number) for name, port in network.servers.items()}, streams


def _is_stable(network: OutputPortNetwork, number: int) -> bool:
    rates = dict.fromkeys(network.servers, 0.0)
    for flow in network.flows:
        for name in flow.path:
            rates[name] += flow.buckets[number][1]
    return all(rates[name] < max(port.curves)[0] for name, port in network.servers.items())


def _server(port: OutputPort, packet_bits: float, number: int) -> Server:
    rate_bps, latency_us = port.curves[number]
    shaping = None if port.capacity_bps is None else ShapingCurve(packet_bits, port.capacity_bps)
    return Server(rate_bps, latency_us, output_shaping=shaping)


def _packets(network: OutputPortNetwork) -> Mapping[str, float]:
    """Return the largest packet in bit at every server; 0 for a fluid."""
    packets = dict.fromkeys(network.servers, 0.0)
    if network.packetizer:
        for flow in network.flows:
            for name in flow.path:
                packets[name] = max(packets[name], flow.max_packet_bits or 0.0)
    return packets
