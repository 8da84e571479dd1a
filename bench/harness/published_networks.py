"""Networks with published bounds: rings, the interleaved tandem and the demonstration of Saihu; PLP as published.

Source: figures of panco (PLP with TFA rows) by lp_solve on networks made by Saihu's generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from controller.calculus.curves import Group, Server, ShapingCurve, delay_bound_us
from controller.calculus.cut_bursts import CutAnalysis
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound, Stream, fixed_point_delays
from controller.calculus.forest import Segment, forest_in_order

LINE_BPS = 1e8
PACKET_BITS = 12_000.0
LATENCY_US = 10.0

Case = tuple[dict[str, Server], dict[int, Stream]]


def ring(size: int, load: float, line_burst_bits: float = 0.0) -> Case:
    """A ring of servers with as many flows, each all the way round."""
    paths = [tuple(f"s{(first + hop) % size}" for hop in range(size)) for first in range(size)]
    streams = {number: Stream(path, load * LINE_BPS / size, PACKET_BITS) for number, path in enumerate(paths)}
    return _servers(size, line_burst_bits), streams


def tandem(size: int, load: float) -> Case:
    """A tandem with one flow along all servers and one along each pair of neighbours."""
    servers = _servers(size, 0.0)
    names = list(servers)
    paths = [tuple(names), *pairwise(names)]
    return servers, {n: Stream(tuple(path), load * LINE_BPS / 3, PACKET_BITS) for n, path in enumerate(paths)}


def _servers(size: int, line_burst_bits: float) -> dict[str, Server]:
    line = ShapingCurve(line_burst_bits, LINE_BPS)
    return {f"s{number}": Server(LINE_BPS, LATENCY_US, output_shaping=line) for number in range(size)}


def total_flow_delays(case: Case) -> dict[str, float]:
    """The delays of total-flow analysis; empty where it has none."""
    servers, streams = case
    try:
        return fixed_point_delays(servers, list(streams.values()))
    except NoBound:
        return {}


def plp_as_published(case: Case) -> list[float]:
    """The delays of all flows as PLP has them: one forest, TFA rows of the whole network for the bursts, TFA rows of
    the forest for the delays.
    """
    servers, streams = case
    analysis = plp_analysis(case)
    analysis.solve({})
    improve_by_total_flow(servers, analysis, total_flow_delays(case))
    totals = dict.fromkeys(range(len(streams)), 0.0)
    for segment in analysis.segments:
        totals[segment.flow] += analysis.delay_us(segment.servers[0], segment.servers[-1])
    return list(totals.values())


def plp_analysis(case: Case) -> CutAnalysis:
    """The forest of PLP, before its bursts are known."""
    network = FifoNetwork.of(*case)
    return CutAnalysis(network, forest_in_order(network), total_flow_delays(case), is_as_published=True)


def improve_by_total_flow(
    servers: Mapping[str, Server], analysis: CutAnalysis, delays_us: Mapping[str, float]
) -> None:
    """Replace the delays of servers by those of the forest with the bursts at its cuts, where they are less."""
    forest_us = _forest_delays(servers, analysis)
    analysis.improve({name: min(delay, delays_us.get(name, delay)) for name, delay in forest_us.items()})


def _forest_delays(servers: Mapping[str, Server], analysis: CutAnalysis) -> dict[str, float]:
    """Total-flow analysis of a forest with the bursts at its cuts."""
    bursts = {segment: float(burst) * 1e3 for segment, burst in zip(analysis.cuts, analysis.bursts, strict=True)}
    flows = analysis.network.flows
    here = {segment: bursts.get(segment, flows[segment.flow].bucket.burst * 1e3) for segment in analysis.segments}
    delays_us: dict[str, float] = {}
    for name in sorted(servers, key=lambda name: _height(analysis, name)):
        groups: dict[str, Group] = {}
        crossing = [segment for segment in analysis.segments if name in segment.servers]
        for segment in crossing:
            before = _server_before(segment, name)
            shaping = servers[before].output_shaping if before else None
            _, burst, rate = groups.get(before, (None, 0.0, 0.0))
            groups[before] = shaping, burst + here[segment], rate + flows[segment.flow].bucket.rate * 1e9
        delays_us[name] = delay_bound_us(servers[name], groups.values())
        for segment in crossing:
            here[segment] += flows[segment.flow].bucket.rate * 1e3 * delays_us[name]
    return delays_us


def _server_before(segment: Segment, name: str) -> str:
    hop = segment.servers.index(name)
    return segment.servers[hop - 1] if hop else segment.previous


def _height(analysis: CutAnalysis, name: str) -> int:
    before = [other for other, after in analysis.successors.items() if after == name]
    return 1 + max((_height(analysis, other) for other in before), default=0)
