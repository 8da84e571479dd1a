"""The proven delays of all servers for a set of streams, kept up to date from change to change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Generic, TypeVar

from immutables import Map

from controller.calculus.busy_period import HOPELESS_US
from controller.calculus.curves import Server
from controller.calculus.fixed_point import NoBound, Stream, delays_of
from controller.calculus.incremental import Proof, Repair
from controller.calculus.server_load import Rates, Traffic, servers_of

Key = TypeVar("Key")


class Delays(Generic[Key]):
    """Immutable; `changed` makes another that shares what it can."""

    def __init__(self, servers: Mapping[str, Server], streams: Mapping[Key, Stream], clock_us: float = 0.0) -> None:
        """Worked out from zero.

        Raises: NoBound
        """
        self._begin(servers, Map(streams), clock_us, delays_of(servers, streams.values(), clock_us), frozenset())

    def _begin(
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
        """But for those that are left open."""
        self._last_us: Rates = {}
        """Of these, those that were asked for."""
        self._moved = moved

    def along_us(self, names: Iterable[str]) -> float:
        """The delays of these servers, one after the other.

        Raises: NoBound if one is out of reach.
        """
        known = self._delay_us
        return sum([known[name] if name in known else self._at_last_us(name) for name in names])

    def _at_last_us(self, name: str) -> float:
        delay_us = self._last_us.get(name)
        if delay_us is None:
            delay_us = self.traffic.loads[name].longest_wait_us(self.servers[name], self.proof.spread_s)
            if delay_us > HOPELESS_US:
                raise NoBound(name)
            self._last_us[name] = delay_us
        return delay_us

    @cached_property
    def moved(self) -> frozenset[str]:
        """The servers whose delay `changed` may have changed."""
        known, loads = self._delay_us, self.traffic.loads
        reached = (loads[name].behind for name in self._moved if name in loads)
        return self._moved.union(name for behind in reached for name in behind if name not in known)

    @cached_property
    def traffic(self) -> Traffic[Key]:
        """Who crosses what; the first change needs it."""
        return Traffic[Key](self.servers).changed(self.streams, {}, servers_of(self.streams.values()))

    @cached_property
    def proof(self) -> Proof:
        """Of rooms nothing is known yet: a first change works out what it touches."""
        return Proof.of(self.servers, self._delay_us, [name for name, load in self.traffic.loads.items() if load.mixed])

    def changed(self, added: Mapping[Key, Stream], removed: Collection[Key] = ()) -> Delays[Key]:
        """The delays without `removed` and with `added`.

        Raises: NoBound
        """
        gone = {key: self.streams[key] for key in removed}
        streams = self._with(added, gone)
        raised, left = servers_of(added.values()), servers_of(gone.values())
        traffic = self.traffic.changed(added, gone, raised | left)
        repair = Repair(traffic, self.proof, self.clock_us)
        following: Delays[Key] = object.__new__(Delays)
        if repair.run(raised | left, raised):
            following._begin(
                self.servers, streams, self.clock_us, repair.proof.delay_us, frozenset(repair.moved)
            )
            following.__dict__["proof"] = repair.proof
        else:
            delay_us = delays_of(self.servers, list(streams.values()), self.clock_us)
            moved = frozenset(name for name, delay in delay_us.items() if self._delay_us.get(name) != delay)
            following._begin(self.servers, streams, self.clock_us, delay_us, moved)
        following.__dict__["traffic"] = traffic
        return following

    def _with(self, added: Mapping[Key, Stream], gone: Iterable[Key]) -> Map[Key, Stream]:
        streams = self.streams.mutate()
        for key in gone:
            del streams[key]
        streams.update(added)
        return streams.finish()
