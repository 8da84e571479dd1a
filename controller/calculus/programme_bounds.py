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
    Bound,
    Calibration,
    ShapedFlow,
    fixed_parts_us,
    servers_and_streams,
)
from controller.calculus.path_bounds import PathBounds
from controller.domain.network import Network

Key = TypeVar("Key")
Links = tuple[str, ...]

FORESTS = 2


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
    by_path = _merged(streams)
    analysis = PathBounds(FifoNetwork.of(servers, by_path, network.max_frame_bytes * 8.0), delays_us, remaining_s)
    with suppress(NoBound):  # total-flow analysis may still have bounds
        analysis.analyse(forests)
    path_us: dict[Links, float] = {}
    for number, links in enumerate(by_path):
        with suppress(NoBound):
            path_us[links] = analysis.bound_us(number)
    return {
        key: _bound(network, stream.servers, path_us[stream.servers], calibration)
        for key, stream in streams.items() if stream.servers in path_us
    }  # fmt: skip


def _merged(streams: Mapping[Key, Stream]) -> dict[Links, Stream]:
    """Return one stream for all on the same links: the sum of their token buckets."""
    merged: dict[Links, Stream] = {}
    for stream in streams.values():
        burst_bits = stream.burst_bits + stream.rate_bps * stream.jitter_us / 1e6
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
