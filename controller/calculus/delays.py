"""The proven delays and backlogs of all servers for a set of streams, updated incrementally."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Generic, TypeVar

from immutables import Map

from controller.booking.peak_load import ALWAYS
from controller.calculus.busy_period import MAX_DELAY_US, Unstable, server_backlog_bits
from controller.calculus.curves import Group, Server, recovery_us
from controller.calculus.fixed_point import fixed_point_delays
from controller.calculus.incremental import HEADROOM_SHARE, MAX_EXCESS, TIGHT_HEADROOM_SHARE, Proof, ProofUpdate
from controller.calculus.server_load import NetworkLoad, Rates, servers_of
from controller.calculus.streams import NoBound, Stream

Key = TypeVar("Key")


class Delays(Generic[Key]):
    """Immutable; `changed` returns a new one that shares the unchanged part."""

    def __init__(self, servers: Mapping[str, Server], streams: Mapping[Key, Stream], clock_us: float = 0.0) -> None:
        """Computed from zero by fixed-point iteration.

        Raises: NoBound
        """
        self._initialise(
            servers, Map(streams), clock_us, fixed_point_delays(servers, streams.values(), clock_us), frozenset()
        )

    def _initialise(
        self,
        servers: Mapping[str, Server],
        streams: Map[Key, Stream],
        clock_us: float,
        delay_us: Rates,
        moved: frozenset[str],
    ) -> None:
        self.servers = servers
        self.streams = streams
        self.clock_us = clock_us
        self._delay_us = delay_us
        """Without the deferred ones."""
        self._last_us: Rates = {}
        """Deferred delays that have been evaluated."""
        self._changed_servers = moved
        self._headroom_share = HEADROOM_SHARE

    def path_delay_us(self, names: Iterable[str]) -> float:
        """Return the sum of the delays of these servers.

        Raises: NoBound if one is unbounded.
        """
        known = self._delay_us
        return sum([known[name] if name in known else self._deferred_delay_us(name) for name in names])

    def least_path_delay_us(self, stream: Stream) -> float:
        """Return a lower bound of the sum of the delays of the stream's servers if it was added.

        An added stream lowers no delay, and a delay is at most MAX_EXCESS above the least. At the first server its
        burst, which no link shapes, is added to those of streams that are always active.
        """
        total_us = 0.0
        for hop, name in enumerate(stream.servers):
            server, load = self.servers[name], self.load.loads.get(name)
            shaping = self.servers[stream.servers[hop - 1]].output_shaping if hop else None
            burst_bits = stream.burst_bits if shaping is None else min(stream.burst_bits, shaping.burst_bits)
            own_us = burst_bits / server.rate_bps * 1e6
            if load is None:
                total_us += server.latency_us + own_us
                continue
            known_us = self.path_delay_us((name,)) / (1 + MAX_EXCESS)
            adds_up = hop == 0 and stream.activity == ALWAYS and not load.intermittent and load.inflows.keys() == {""}
            total_us += known_us + own_us if adds_up else max(known_us, server.latency_us + own_us)
        return total_us

    def _deferred_delay_us(self, name: str) -> float:
        delay_us = self.delay_us(name)
        if delay_us > MAX_DELAY_US:
            raise NoBound(name)
        return delay_us

    def drain_us(self, keys: Iterable[Key]) -> float:
        """Return after how long each of these streams, if it sends no more, influences no delay along its path."""
        groups: dict[str, list[Group]] = {}
        streams = dict.fromkeys(self.streams[key] for key in keys)
        return max((self._drain_us(stream, groups) for stream in streams), default=0.0)

    def _drain_us(self, stream: Stream, groups: dict[str, list[Group]]) -> float:
        """Return the same for one stream. `groups`: those of servers computed so far.

        A packet of it arrives at each server after at most the delays before; from then on the server recovers.
        """
        crossings: dict[str, list[tuple[int, float]]] = {}
        jitter_us = 0.0
        for hop, name in enumerate(stream.servers):
            crossings.setdefault(name, []).append((hop, jitter_us))
            if hop >= stream.last_shaped(hop + 1):
                jitter_us += self.servers[name].transit_jitter_us
        spread_s, total_us = self.proof.spread_s, self.path_delay_us(stream.servers)
        for name in stream.servers:
            server, load = self.servers[name], self.load.loads[name]
            if name not in groups:
                groups[name] = load.groups(spread_s)
            after = load.groups_without(stream, crossings[name], spread_s)
            total_us += recovery_us(server, groups[name], after) + server.max_transit_us
        return total_us

    def slower_than(self, limits_us: Mapping[str, float], names: Iterable[str] | None = None) -> frozenset[str]:
        """Return those of these servers (None: of all) whose delay exceeds its limit."""
        known, loads, spread_s = self._delay_us, self.load.loads, self.proof.spread_s
        max_spread_s = max(spread_s.values(), default=0.0)
        slower = []
        for name in loads if names is None else names:
            limit_us = limits_us[name]
            if name in known:
                is_slower = known[name] > limit_us
            elif name not in loads or loads[name].rough_delay_us(self.servers[name], max_spread_s) <= limit_us:
                continue
            else:
                is_slower = self.delay_us(name) > limit_us
            if is_slower:
                slower.append(name)
        return frozenset(slower)

    def delay_us(self, name: str) -> float:
        """Return the delay of a server that a stream crosses, however long."""
        delay_us = self._delay_us.get(name) or self._last_us.get(name)
        if delay_us is None:
            delay_us = self._last_us[name] = self.load.loads[name].delay_bound_us(
                self.servers[name], self.proof.spread_s
            )
        return delay_us

    def backlog_bits(self, name: str) -> float:
        """Return the backlog bound of a server that a stream crosses.

        The vertical deviation of a rate-latency server is at most its rate times the horizontal one, whenever its
        streams are active; it is a little less, and much less where the delay takes all as always active. Where
        regulators precede it, what they hold is included.
        """
        server, load, proof = self.servers[name], self.load.loads[name], self.proof
        if server.is_regulated:
            return load.residence_bits(self.servers, proof.spread_s, self.delay_us(name))
        drained_bits = server.rate_bps * self.delay_us(name) / 1e6
        if load.intermittent:
            flows = load.cross_flows(self.servers, proof.spread_s)
            try:
                return min(drained_bits, server_backlog_bits(server, flows, self.clock_us))
            except Unstable:  # with longer delays than those for which the delay was proven
                return drained_bits
        return min(drained_bits, load.backlog_bound_bits(server, proof.spread_s))

    def affected_servers(self, streams: Iterable[Stream]) -> set[str]:
        """Return the servers whose arrivals may differ from those before the last `changed`, which concerned `streams`.

        They depend on the streams that cross a server and on the delays of the servers before it.
        """
        loads = self.load.loads
        downstream = [loads[name].downstream_bps for name in self.changed_servers if name in loads]
        return {*servers_of(streams), *self.changed_servers, *(name for rates in downstream for name in rates)}

    @cached_property
    def changed_servers(self) -> frozenset[str]:
        """The servers whose delay the last `changed` may have changed."""
        loads, changed = self.load.loads, self._changed_servers
        deferred = set[str]().union(*[loads[name].downstream_bps for name in changed if name in loads])
        deferred.difference_update(self._delay_us)
        return changed | deferred if deferred else changed

    @cached_property
    def load(self) -> NetworkLoad[Key]:
        """The load of all servers, computed when first needed."""
        return NetworkLoad[Key](self.servers).changed(self.streams, {}, servers_of(self.streams.values()))

    @cached_property
    def proof(self) -> Proof:
        """The proof with unknown slack; the first change evaluates what it touches."""
        return Proof.of(
            self.servers, self._delay_us, [name for name, load in self.load.loads.items() if load.intermittent]
        )

    def changed(self, added: Mapping[Key, Stream], removed: Collection[Key] = ()) -> Delays[Key]:
        """Return the delays without the streams `removed` and with those `added`.

        Raises: NoBound
        """
        removed_streams = {key: self.streams[key] for key in removed}
        streams = self._changed_streams(added, removed_streams)
        raised, lowered = servers_of(added.values()), servers_of(removed_streams.values())
        load = self.load.changed(added, removed_streams, raised | lowered)
        update = ProofUpdate(load, self.proof, self.clock_us, self._headroom_share)
        next_delays: Delays[Key] = object.__new__(Delays)
        if update.run(raised | lowered, raised):
            next_delays._initialise(
                self.servers, streams, self.clock_us, update.proof.delay_us, frozenset(update.changed_servers)
            )
            next_delays.proof = update.proof
        else:
            delay_us = fixed_point_delays(self.servers, list(streams.values()), self.clock_us)
            moved = frozenset(name for name, delay in delay_us.items() if self._delay_us.get(name) != delay)
            next_delays._initialise(self.servers, streams, self.clock_us, delay_us, moved)
        next_delays.load = load
        next_delays._headroom_share = self._headroom_share
        return next_delays

    def analysed_afresh(self, *, is_tight: bool) -> Delays[Key]:
        """Return the delays of a new analysis; if `is_tight`, changes of it add less headroom and take more time.

        Raises: NoBound
        """
        delay_us = fixed_point_delays(self.servers, list(self.streams.values()), self.clock_us)
        afresh: Delays[Key] = object.__new__(Delays)
        afresh._initialise(self.servers, self.streams, self.clock_us, delay_us, frozenset())
        afresh.load, afresh._headroom_share = self.load, TIGHT_HEADROOM_SHARE if is_tight else HEADROOM_SHARE
        return afresh

    def _changed_streams(self, added: Mapping[Key, Stream], removed: Iterable[Key]) -> Map[Key, Stream]:
        streams = self.streams.mutate()
        for key in removed:
            del streams[key]
        streams.update(added)
        return streams.finish()
