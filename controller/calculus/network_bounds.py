"""Bounds on latency and jitter of every reserved flow, and on what waits at every port: ports as servers of calculus.

Model. A packet has arrived at a port when its last bit is received (store and forward), so a flow behind its meter is a
point process with the token-bucket arrival curve b + r t. Reserved flows share the strict-priority class of each egress
port, first come, first served; at most one best-effort packet, the one in transmission, precedes them. A port is thus a
rate-latency server with the link's rate and the transmission time of the largest frame as latency (`curves`, `ports`).
Flows that enter over one link are shaped by it: its burst is the largest frame, the shaper's burst and the data that
the jitter of a switch's processing can accumulate. After hops with total jitter J, the burst of a flow is b + r J, and
b again where regulators precede the port.
Dependencies may be cyclic: the delays of all ports are a fixed point (`fixed_point`), updated incrementally (`delays`).
Flows that are never active together do not delay each other (`busy_period`).

docs/guarantees.md has the derivation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from math import ceil
from typing import Generic, TypeVar

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.curves import Server
from controller.calculus.delays import Delays
from controller.calculus.ports import (
    DEFAULT_CALIBRATION,
    Calibration,
    drain_us,
    fixed_parts_us,
    ports_of,
    tagged_share,
)
from controller.calculus.streams import NoBound, Stream
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.path import link_names

__all__ = ["DEFAULT_CALIBRATION", "Analysis", "Bound", "Calibration", "NoBound", "ShapedFlow", "bounds_of"]

Key = TypeVar("Key")


@frozen
class ShapedFlow:
    """A flow: path, token bucket of its source, activity.

    `meter_burst_bytes`: the burst of the meter at its first switch, which passes what the source sends even if it is
    delayed at the source's port by more or less (`meter_allowance`); None: there is no meter.
    """

    path: tuple[str, ...]
    rate_bps: int
    burst_bytes: int
    activity: Activity = ALWAYS
    meter_burst_bytes: int | None = None


@frozen
class Bound:
    """Worst-case latency and jitter, from the source's socket to the destination's."""

    accumulated_latency_us: float
    latency_variation_us: float


class Analysis(Generic[Key]):
    """The bounds of all flows in each other's presence; immutable, `changed` returns a new one.

    After `changed` a bound is at most 2 % above that of a new analysis, never below.
    """

    def __init__(
        self, network: Network, calibration: Calibration, delays: Delays[Key], unchecked: frozenset[str] | None = None
    ) -> None:
        """`unchecked`: the links that may have become crowded; None: all."""
        self.network = network
        self.calibration = calibration
        self._delays = delays
        self._unchecked = unchecked
        self._bounds: dict[Key, Bound] = {}
        self._backlog_bytes: dict[str, int] = {}
        """Those evaluated so far."""
        self.programme_us: dict[str, dict[tuple[str, ...], float]] = {}
        """The delays of all paths by linear programmes that have been solved, by source (`programme_bounds`)."""

    @classmethod
    def of(
        cls, network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
    ) -> Analysis[Key]:
        """Analyse from zero.

        Raises: NoBound if a port is unstable or the fixed-point iteration does not converge.
        """
        delays = Delays(*servers_and_streams(network, flows, calibration), calibration.clock_us)
        return cls(network, calibration, delays)

    def changed(self, added: Mapping[Key, ShapedFlow], removed: Collection[Key] = ()) -> Analysis[Key]:
        """Return the analysis without the flows `removed` and with those `added`; a key in both is replaced.

        Raises: NoBound if a port is unstable or the fixed-point iteration does not converge; KeyError if a flow to be
        removed is not in the analysis.
        """
        streams = {key: _stream(flow, self.calibration, self.network.is_regulated) for key, flow in added.items()}
        removed_keys = dict.fromkeys((*removed, *(key for key in added if key in self._delays.streams)))
        delays = self._delays.changed(streams, removed_keys)
        crowded = self.__dict__.get("crowded_links", self._unchecked)
        unchecked = None if crowded is None else delays.changed_servers | crowded
        changed = Analysis(self.network, self.calibration, delays, unchecked)
        if self._backlog_bytes:
            removed_streams = [self._delays.streams[key] for key in removed_keys]
            affected = delays.affected_servers([*streams.values(), *removed_streams])
            kept = {link: size for link, size in self._backlog_bytes.items() if link not in affected}
            changed._backlog_bytes.update(kept)
        return changed

    @cached_property
    def crowded_links(self) -> frozenset[str]:
        """The links whose queue takes less time to drain than their delay bound, so that it may be too small."""
        return self._delays.slower_than(drain_us(self.network, self.calibration), self._unchecked)

    @cached_property
    def tightened(self) -> Analysis[Key]:
        """A new analysis of the same flows; its changes add less headroom.

        Raises: NoBound
        """
        return Analysis(self.network, self.calibration, self._delays.analysed_afresh(is_tight=True))

    def analysed_afresh(self) -> Analysis[Key]:
        """Return a new analysis of the same flows, which does not depend on history.

        Raises: NoBound
        """
        return Analysis(self.network, self.calibration, self._delays.analysed_afresh(is_tight=False))

    def bound(self, key: Key) -> Bound:
        """Return the bound of one flow.

        Raises: NoBound if there is no finite bound.
        """
        if key not in self._bounds:
            links = self._delays.streams[key].servers
            fixed_us, best_us = fixed_parts_us(self.network, links, self.calibration)
            worst_us = fixed_us + self._delays.path_delay_us(links)
            self._bounds[key] = Bound(worst_us, worst_us - best_us)
        return self._bounds[key]

    def drain_us(self, keys: Iterable[Key]) -> float:
        """Return after how long each of these flows, if it sends no more, delays no other flow."""
        return self._delays.drain_us(keys)

    def least_latency_us(self, flow: ShapedFlow) -> float:
        """Return a lower bound of the latency bound that this flow would have if it was added."""
        stream = _stream(flow, self.calibration, self.network.is_regulated)
        fixed_us, _ = fixed_parts_us(self.network, stream.servers, self.calibration)
        return fixed_us + self._delays.least_path_delay_us(stream)

    @property
    def bounds(self) -> dict[Key, Bound]:
        """The bounds of all flows."""
        return {key: self.bound(key) for key in self._delays.streams}

    def backlog_bytes(self, link: str) -> int:
        """Return the bound on what the queue of a link's port holds, with the frame in transmission; 0 if unused.

        A queue holds whole frames, and on an optical network their tags.
        """
        if link not in self._delays.load.loads:
            return 0
        if link not in self._backlog_bytes:
            bits = self._delays.backlog_bits(link) + self.network.max_frame_bytes * 8
            self._backlog_bytes[link] = ceil(bits / 8 * tagged_share(self.network))
        return self._backlog_bytes[link]

    def link_delays_us(self) -> dict[str, float]:
        """Return the delay of every link that a flow crosses.

        Raises: NoBound if one is unbounded.
        """
        return {link: self._delays.path_delay_us((link,)) for link in self._delays.load.loads}

    @property
    def streams(self) -> Mapping[Key, Stream]:
        """All flows as the analysis sees them."""
        return self._delays.streams

    def delay_us(self, link: str) -> float:
        """Return the delay bound of a port.

        Raises: NoBound if there is no finite bound.
        """
        return self._delays.path_delay_us([link])

    @property
    def changed_links(self) -> frozenset[str]:
        """The links whose delay may differ from that before the last `changed`."""
        return self._delays.changed_servers


def bounds_of(
    network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
) -> dict[Key, Bound]:
    """Return the bounds of all flows in each other's presence.

    Raises: NoBound if a port is unstable or the fixed-point iteration does not converge.
    """
    return Analysis.of(network, flows, calibration).bounds


def servers_and_streams(
    network: Network, flows: Mapping[Key, ShapedFlow], calibration: Calibration = DEFAULT_CALIBRATION
) -> tuple[Mapping[str, Server], dict[Key, Stream]]:
    """Return the model: the ports of all links, and the flows behind their meters."""
    streams = {key: _stream(flow, calibration, network.is_regulated) for key, flow in flows.items()}
    return ports_of(network, calibration), streams


def _stream(flow: ShapedFlow, calibration: Calibration, is_regulated: bool) -> Stream:
    rate_bps = float(max(flow.rate_bps, 1))  # the load finds the servers after a server by the rates that go there
    burst_bits, tick_us, metered_bits = _meter_bits(flow.burst_bytes, calibration), calibration.meter_tick_us, None
    if flow.meter_burst_bytes is not None:
        metered_bits = _meter_bits(flow.meter_burst_bytes, calibration) + rate_bps * tick_us / 1e6
    return Stream(link_names(flow.path), rate_bps, burst_bits, tick_us, flow.activity, metered_bits, is_regulated)


def _meter_bits(burst_bytes: int, calibration: Calibration) -> float:
    """Return the burst as rounded by the meter of Open vSwitch."""
    return ceil(burst_bytes * 8 / 1000) * 1000.0 if calibration.meter_tick_us else burst_bytes * 8.0
