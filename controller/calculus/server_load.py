"""The load of servers, as sums over their streams: what the delay of a server depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from immutables import Map

from controller.booking.peak_load import ALWAYS
from controller.calculus.busy_period import CrossFlow, Unstable
from controller.calculus.curves import Group, Server, ShapingCurve, backlog_bound_bits, delay_bound_us
from controller.calculus.streams import Stream
from controller.domain.frozen import frozen

Key = TypeVar("Key")
Rates = dict[str, float]


@frozen
class Inflow:
    """The streams that enter a server over one link; `shaping`: None if they come from a source.

    Their burst there is `burst_bits`, which is independent of delays, plus, for every server in `upstream_bps`, the
    rate of those that crossed it times the jitter of its delay.
    """

    shaping: ShapingCurve | None
    burst_bits: float
    rate_bps: float
    upstream_bps: Rates
    streams: int

    def with_streams(
        self, rate_bps: float, signed: Iterable[tuple[int, Stream]], hop: int, jitter_us: float, upstream: Sequence[str]
    ) -> Inflow:
        """Return the inflow with streams added (1) or removed (-1), of which this is server `hop`.

        `rate_bps`: of all of them, signed. Since they were last shaped they have crossed the `upstream` servers, and
        have gained this jitter apart from that of delays.
        """
        rates, burst_bits, count = self.upstream_bps, self.burst_bits, self.streams
        if upstream and rate_bps:
            rates = rates.copy()
            _add(rates, upstream, rate_bps)
        for sign, stream in signed:
            bits = stream.metered_bits if hop else None
            burst_bits += sign * ((stream.shaped_bits(0) if bits is None else bits) + stream.rate_bps * jitter_us / 1e6)
            count += sign
        return Inflow(self.shaping, burst_bits, self.rate_bps + rate_bps, rates, count)


@dataclass(slots=True)
class ServerLoad(Generic[Key]):
    """The load of a server: `inflows` by previous server; `downstream_bps`: the rates that continue to later servers.
    """

    inflows: dict[str, Inflow] = field(default_factory=dict)
    downstream_bps: Rates = field(default_factory=dict)
    streams: Map[tuple[Key, int], Stream] = field(default_factory=Map)
    rate_bps: float = 0.0
    """Of all streams together."""
    intermittent: int = 0
    """How many of the streams are not always active."""
    upstream_bps: float = 0.0
    """The rate of each stream times the number of servers that it has crossed since it was last shaped, summed."""
    jitterless_us: float | None = None
    """The result of `jitterless_delay_us`, once computed."""
    _burst_bits: float | None = None
    """Of all inflows."""

    def delay_bound_us(self, server: Server, spread_s: Rates) -> float:
        """Return the delay bound if all streams are always active. `spread_s`: the jitter of the delays of all servers.

        Raises: Unstable
        """
        if self.rate_bps >= server.rate_bps:
            raise Unstable
        if self.upstream_bps > 0:
            return delay_bound_us(server, _groups(self.inflows.values(), spread_s))
        return self.jitterless_delay_us(server)

    def rough_delay_us(self, server: Server, max_spread_s: float) -> float:
        """Return at least `delay_bound_us`, in less time: without shaping, and with `max_spread_s` for every jitter."""
        burst_bits = self._burst_bits
        if burst_bits is None:
            burst_bits = self._burst_bits = sum([inflow.burst_bits for inflow in self.inflows.values()])
        return server.latency_us + (burst_bits + self.upstream_bps * max_spread_s) / server.rate_bps * 1e6

    def backlog_bound_bits(self, server: Server, spread_s: Rates) -> float:
        """Return the backlog bound if all streams are always active; the server must be stable."""
        return backlog_bound_bits(server, self.groups(spread_s))

    def residence_bits(self, servers: Mapping[str, Server], spread_s: Rates, delay_us: float) -> float:
        """Return a bound on what waits at the server and its regulators; `delay_us`: the delay bound of the server.

        What is there at a moment has left its regulator within that delay, or will within the jitter of its arrival.
        """
        total_bits = 0.0
        for (_, hop), stream in self.streams.items():
            jitter_us = 0.0
            if stream.is_regulated and hop > stream.last_metered(hop):
                previous = stream.servers[hop - 1]
                jitter_us = spread_s[previous] * 1e6 + servers[previous].transit_jitter_us
            total_bits += stream.shaped_bits(hop) + stream.rate_bps * (jitter_us + delay_us) / 1e6
        return total_bits

    def groups(self, spread_s: Rates) -> list[Group]:
        """Return the arrival curves of the inflows if all streams are always active."""
        return _groups(self.inflows.values(), spread_s)

    def groups_without(self, stream: Stream, crossings: Iterable[tuple[int, float]], spread_s: Rates) -> list[Group]:
        """Return the same without one of the streams.

        `crossings`: (hop, the jitter that it has gained there since it was last shaped, apart from that of delays)
        for each time that it crosses this server.
        """
        inflows = self.inflows.copy()
        for hop, jitter_us in crossings:
            previous = stream.servers[hop - 1] if hop else ""
            upstream = stream.servers[stream.last_shaped(hop) : hop]
            rest = inflows[previous].with_streams(-stream.rate_bps, [(-1, stream)], hop, jitter_us, upstream)
            if rest.streams:
                inflows[previous] = rest
            else:
                del inflows[previous]
        return _groups(inflows.values(), spread_s)

    def jitterless_delay_us(self, server: Server) -> float:
        """Return the delay bound if no delay had jitter; computed once for each load."""
        jitterless_us = self.jitterless_us
        if jitterless_us is None:
            groups = [(inflow.shaping, inflow.burst_bits, inflow.rate_bps) for inflow in self.inflows.values()]
            jitterless_us = self.jitterless_us = delay_bound_us(server, groups)
        return jitterless_us

    def jitter_bits(self, flows: Iterable[CrossFlow]) -> float:
        """Return by how much the jitter of delays has increased the bursts of all streams, which `flows` are."""
        bursts_bits = sum([flow.burst_bits for flow in flows])
        return bursts_bits - sum([inflow.burst_bits for inflow in self.inflows.values()])

    def cross_flows(self, servers: Mapping[str, Server], spread_s: Rates, share: float = 1.0) -> list[CrossFlow]:
        """Return its streams one by one, as the analysis of activities needs them, with this share of the jitter."""
        flows = []
        for (_, hop), stream in self.streams.items():
            jitter_us, first = 0.0, stream.last_metered(hop)
            lateness_us = sum([servers[name].max_transit_us for name in stream.servers[:first]])
            for name in stream.servers[first:hop]:
                before, spread_us = servers[name], spread_s[name] * 1e6 * share if share else 0.0
                jitter_us += 0.0 if stream.is_regulated else spread_us + before.transit_jitter_us
                lateness_us += before.min_delay_us + spread_us + before.max_transit_us
            burst_bits = stream.shaped_bits(hop) + stream.rate_bps * jitter_us / 1e6
            previous = stream.servers[hop - 1] if hop else ""
            shaping = servers[previous].output_shaping if previous else None
            flows.append(CrossFlow(stream.activity, previous, shaping, burst_bits, stream.rate_bps, lateness_us))
        return flows

    def copy(self) -> ServerLoad[Key]:
        """Return a copy that may be modified."""
        return ServerLoad(
            self.inflows.copy(),
            self.downstream_bps.copy(),
            self.streams,
            self.rate_bps,
            self.intermittent,
            self.upstream_bps,
        )


class NetworkLoad(Generic[Key]):
    """The load of every server that a stream crosses; `changed` shares the unchanged part."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.servers = servers
        self.loads: dict[str, ServerLoad[Key]] = {}

    def changed(
        self, added: Mapping[Key, Stream], removed: Mapping[Key, Stream], touched: Iterable[str]
    ) -> NetworkLoad[Key]:
        """Return the load without `removed` and with `added`; `touched`: the servers that these streams cross."""
        next_load: NetworkLoad[Key] = NetworkLoad(self.servers)
        next_load.loads = dict(self.loads)
        for name in touched:
            load = self.loads.get(name)
            next_load.loads[name] = ServerLoad() if load is None else load.copy()
        replaced = [key for key in removed if key in added and _way(removed[key]) == _way(added[key])]
        ended, new = dict(removed), dict(added)
        before, after = {key: ended.pop(key) for key in replaced}, {key: new.pop(key) for key in replaced}
        for alike in _by_way(ended).values():
            next_load._replace_streams(alike, {})
        for alike in _by_way(before).values():
            next_load._replace_streams(alike, {key: after[key] for key in alike})
        for alike in _by_way(new).values():
            next_load._replace_streams({}, alike)
        for name in touched if removed else ():
            if not next_load.loads[name].streams:
                del next_load.loads[name]
        return next_load

    def _replace_streams(self, removed: Mapping[Key, Stream], added: Mapping[Key, Stream]) -> None:
        """Remove and add streams that all cross the same servers and are shaped at the same of them."""
        signed = [*((-1, stream) for stream in removed.values()), *((1, stream) for stream in added.values())]
        (servers, metered, is_regulated), jitter_us = _way(signed[0][1]), 0.0
        rate_bps = sum([sign * stream.rate_bps for sign, stream in signed])
        intermittent = sum([sign for sign, stream in signed if stream.activity is not ALWAYS != stream.activity])
        gone = [key for key in removed if key not in added]
        previous = ""
        for hop, name in enumerate(servers):
            first, load = hop if is_regulated else min(hop, metered), self.loads[name]
            inflow = load.inflows.get(previous) or Inflow(
                self.servers[previous].output_shaping if previous else None, 0.0, 0.0, {}, 0
            )
            inflow = inflow.with_streams(rate_bps, signed, hop, jitter_us, servers[first:hop])
            if inflow.streams:
                load.inflows[previous] = inflow
            else:
                del load.inflows[previous]
            if rate_bps and metered <= hop < len(servers) - 1:
                _add(load.downstream_bps, servers[hop + 1 :], rate_bps)
            held = load.streams.mutate()
            for key in gone:
                del held[key, hop]
            for key, stream in added.items():
                held[key, hop] = stream
            load.streams = held.finish()
            load.rate_bps += rate_bps
            load.intermittent += intermittent
            load.upstream_bps += rate_bps * (hop - first)
            if hop >= metered and not is_regulated:
                jitter_us += self.servers[name].transit_jitter_us
            previous = name


def _groups(inflows: Iterable[Inflow], spread_s: Rates) -> list[Group]:
    groups = []
    for inflow in inflows:
        burst_bits, upstream_bps = inflow.burst_bits, inflow.upstream_bps
        for previous in upstream_bps:
            burst_bits += upstream_bps[previous] * spread_s[previous]
        groups.append((inflow.shaping, burst_bits, inflow.rate_bps))
    return groups


Way = tuple[tuple[str, ...], int, bool]


def _way(stream: Stream) -> Way:
    """Return the servers that a stream crosses, and where it is shaped."""
    return stream.servers, stream.last_metered(1), stream.is_regulated


def _by_way(streams: Mapping[Key, Stream]) -> dict[Way, dict[Key, Stream]]:
    """Return the streams by their ways, so that many on one cost little more than one."""
    groups: dict[Way, dict[Key, Stream]] = {}
    for key, stream in streams.items():
        groups.setdefault(_way(stream), {})[key] = stream
    return groups


def _add(rates: Rates, names: Iterable[str], rate_bps: float) -> None:
    for name in names:
        sum_bps = rates[name] + rate_bps if name in rates else rate_bps
        if sum_bps > 0:
            rates[name] = sum_bps
        elif name in rates:
            del rates[name]


def servers_of(streams: Iterable[Stream]) -> dict[str, None]:
    """Return the servers that these streams cross, in order of first occurrence."""
    return dict.fromkeys(chain.from_iterable(stream.servers for stream in streams))
