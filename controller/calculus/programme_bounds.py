"""A second opinion on the bounds of reserved flows: linear programmes on the model of `network_bounds`.

The ports are servers of whole packets with switches that take more or less time (docs/guarantees.md, "Tighter bounds by
linear programmes"). Flows on the same links are one flow here, and flows with windows or lifetimes count as always
active; the delays of total-flow analysis, which knows when flows are active, are known limits. So no bound exceeds its
bound, and there may be one where it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from controller.calculus.cut_bursts import Clock, no_limit
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound, Stream, fixed_point_delays
from controller.calculus.network_bounds import (
    DEFAULT_CALIBRATION,
    Analysis,
    Bound,
    Calibration,
    ShapedFlow,
    servers_and_streams,
)
from controller.calculus.path_bounds import PathBounds
from controller.calculus.ports import fixed_parts_us
from controller.domain.network import Network

Key = TypeVar("Key")
Links = tuple[str, ...]

FORESTS = 2
MAX_HOPS = 100
"""Where all flows, those on the same links as one, cross more ports in total, programmes take too long to decide."""


def programme_bounds(
    network: Network,
    flows: Mapping[Key, ShapedFlow],
    calibration: Calibration = DEFAULT_CALIBRATION,
    remaining_s: Clock = no_limit,
    forests: int = FORESTS,
) -> dict[Key, Bound]:
    """Return the bounds of all flows in each other's presence; flows without a finite bound are left out.

    `remaining_s`: how much time is left; what is proven when it is over counts.
    """
    servers, streams = servers_and_streams(network, flows, calibration)
    try:
        delays_us = fixed_point_delays(servers, list(streams.values()), calibration.clock_us)
    except NoBound:
        delays_us = {}
    path_us: dict[Links, float] = {}
    for source in dict.fromkeys(_source(stream) for stream in streams.values()):
        model = FifoNetwork.of(servers, _merged(streams, source), network.max_frame_bytes * 8.0)
        delays = _path_delays(model, delays_us, remaining_s, forests)
        path_us.update((links, delay) for links, delay in delays.items() if source in ("", links[0]))
    return {
        key: _bound(network, stream.servers, path_us[stream.servers], calibration)
        for key, stream in streams.items() if stream.servers in path_us
    }  # fmt: skip


def tighter_bound(analysis: Analysis[Key], key: Key) -> Bound:
    """Return the bound of one flow by linear programmes, solved once for an analysis and the flows of one host.

    On networks whose flows cross more than MAX_HOPS ports in total, or whose ports have regulators, which programmes do
    not know, it is that of the analysis.

    Raises: NoBound if the flow has no finite bound.
    """
    bound, stream = analysis.bound(key), analysis.streams[key]
    links, source = stream.servers, _source(stream)
    if source not in analysis.programme_us:
        analysis.programme_us[source] = _programme_delays(analysis, source)
    path_us = analysis.programme_us[source].get(links)
    if path_us is None:
        return bound
    tighter = _bound(analysis.network, links, path_us, analysis.calibration)
    return min(bound, tighter, key=lambda either: either.accumulated_latency_us)


def _source(stream: Stream) -> str:
    """Return the port of the host whose flows count as their sources send them; "" for all, without meters."""
    return "" if stream.metered_bits is None else stream.servers[0]


def _programme_delays(analysis: Analysis[Key], source: str) -> dict[Links, float]:
    network = analysis.network
    merged = _merged(analysis.streams, source)
    if network.is_regulated or sum(len(links) for links in merged) > MAX_HOPS:
        return {}
    servers, _ = servers_and_streams(network, {}, analysis.calibration)
    delays_us = {name: analysis.delay_us(name) for links in merged for name in links}
    return _path_delays(FifoNetwork.of(servers, merged, network.max_frame_bytes * 8.0), delays_us, no_limit, FORESTS)


def _path_delays(
    model: FifoNetwork, delays_us: Mapping[str, float], remaining_s: Clock, forests: int
) -> dict[Links, float]:
    """Return the delays of all paths in us; those without a finite bound are left out."""
    bounds = PathBounds(model, delays_us, remaining_s)
    with suppress(NoBound):  # total-flow analysis may still have bounds
        bounds.analyse(forests)
    path_us: dict[Links, float] = {}
    for number, flow in enumerate(model.flows):
        with suppress(NoBound):
            path_us[flow.servers] = bounds.bound_us(number)
    return path_us


def _merged(streams: Mapping[Key, Stream], source: str) -> dict[Links, Stream]:
    """Return one stream for all on the same links: the sum of their token buckets.

    The bounds of flows of one host assume that all of them keep to their buckets, because they share its port. Of other
    hosts, which may not keep to them, what counts is what their meters pass.
    """
    merged: dict[Links, Stream] = {}
    for stream in streams.values():
        is_own = stream.servers[0] == source
        burst_bits = stream.shaped_bits(0) if is_own else max(stream.shaped_bits(0), stream.shaped_bits(1))
        alone = Stream(stream.servers, stream.rate_bps, burst_bits)
        before = merged.get(stream.servers)
        merged[stream.servers] = alone if before is None else replace(
            before, rate_bps=before.rate_bps + alone.rate_bps, burst_bits=before.burst_bits + alone.burst_bits
        )  # fmt: skip
    return merged


def _bound(network: Network, links: Links, path_us: float, calibration: Calibration) -> Bound:
    """`path_us`: from the arrival at the first port to the departure from the last, with the transits between them."""
    worst_us = path_us + network.links[links[-1]].propagation_us
    return Bound(worst_us, worst_us - fixed_parts_us(network, links, calibration)[1])
