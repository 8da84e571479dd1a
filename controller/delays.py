"""The delays of all servers, kept up to date from change to change.

The delays D are a proof as long as F(D) <= D (see `fixpoint`). A stream that comes raises F at the servers it crosses;
where F rises above D, D is raised with a little headroom, and the streams through that server take the growth to the
servers behind. There the growth of F is only estimated from above (F grows by no more than the bursts do, over the
rate) and worked out when the estimate reaches D: with headroom on the way, most changes end close to where they began.
A stream that goes lowers F. Lowering one D to its F leaves F(D) <= D true, so going down may stop anywhere; it goes on
where D is more than `SLACK` above F.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Generic, TypeVar

from controller.curves import Server
from controller.fixpoint import Stream, delays_of
from controller.waiting import HOPELESS_US, Crossing, Overbooked, Waiting, waiting

HEADROOM = 0.01
SLACK = 0.03
"""How far a delay may stand above what is needed: when it is raised, and before it is lowered."""

REPAIRS = 20
"""So many times as many servers as there are may be worked out anew before starting from zero is quicker."""

Key = TypeVar("Key")
Streams = dict[tuple[Key, int], Stream]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A server's delay, between which values F is, and how much more may come before it must be worked out anew."""

    delay_us: float
    least_us: float
    most_us: float
    burst_room_bits: float = inf
    lateness_room_us: float = inf


class Delays(Generic[Key]):
    """The proven delay of every server for a set of streams; immutable, `changed` makes another."""

    def __init__(self, servers: Mapping[str, Server], streams: Mapping[Key, Stream], clock_us: float = 0.0) -> None:
        """Worked out from zero.

        Raises: NoBound
        """
        self.servers = servers
        self.clock_us = clock_us
        self.streams = dict(streams)
        self.moved: frozenset[str] = frozenset()
        self._standing = _at_rest(delays_of(servers, self.streams.values(), clock_us))

    @cached_property
    def crossing(self) -> dict[str, Streams[Key]]:
        """For every server: the streams that cross it, by key and how many servers they cross before."""
        crossing: dict[str, Streams[Key]] = {}
        for key, stream in self.streams.items():
            for hop, name in enumerate(stream.servers):
                crossing.setdefault(name, {})[key, hop] = stream
        return crossing

    def delay_us(self, server: str) -> float:
        """The bound of the delay at a server that a stream crosses."""
        return self._standing[server].delay_us

    def changed(self, added: Mapping[Key, Stream], removed: Collection[Key] = ()) -> Delays[Key]:
        """The delays without `removed` and with `added`; its `moved` names the servers whose delay is another.

        Raises: NoBound
        """
        gone = frozenset(removed)
        left = [self.streams[key] for key in gone]
        streams, crossing = dict(self.streams), dict(self.crossing)
        for key in gone:
            del streams[key]
        for name in _servers_of(left):
            crossing[name] = {at: stream for at, stream in crossing[name].items() if at[0] not in gone}
        for name in _servers_of(added.values()):
            crossing[name] = dict(crossing.get(name, ()))
        for key, stream in added.items():
            streams[key] = stream
            for hop, name in enumerate(stream.servers):
                crossing[name][key, hop] = stream
        repair = _Repair(self.servers, crossing, dict(self._standing), self.clock_us)
        standing = repair.run(_servers_of(left + list(added.values())))
        if standing is None:
            standing = _at_rest(delays_of(self.servers, streams.values(), self.clock_us))
        return self._following(streams, crossing, standing, repair.moved)

    def _following(
        self,
        streams: dict[Key, Stream],
        crossing: dict[str, Streams[Key]],
        standing: dict[str, _Standing],
        moved: Iterable[str] | None,
    ) -> Delays[Key]:
        following: Delays[Key] = object.__new__(Delays)
        following.servers, following.clock_us, following.streams = self.servers, self.clock_us, streams
        following.__dict__["crossing"] = crossing
        following._standing = standing
        following.moved = frozenset(standing if moved is None else moved)
        return following


def _at_rest(delays: Mapping[str, float]) -> dict[str, _Standing]:
    """Nothing is known of rooms yet: the first change that comes by works them out."""
    return {name: _Standing(delay_us, delay_us, delay_us, 0.0, 0.0) for name, delay_us in delays.items()}


def _servers_of(streams: Iterable[Stream]) -> dict[str, None]:
    return dict.fromkeys(name for stream in streams for name in stream.servers)


class _Repair(Generic[Key]):
    """Makes F(D) <= D true again after a change, raising first and then lowering."""

    def __init__(
        self,
        servers: Mapping[str, Server],
        crossing: dict[str, Streams[Key]],
        standing: dict[str, _Standing],
        clock_us: float,
    ) -> None:
        self.servers = servers
        self.crossing = crossing
        self.standing = standing
        self.clock_us = clock_us
        self.moved: dict[str, None] | None = {}
        self.work_left = REPAIRS * len(crossing)
        self.low: dict[str, None] = {}

    def run(self, touched: Iterable[str]) -> dict[str, _Standing] | None:
        """What stands then; None if that would take too long or find no end."""
        waiting_list = dict.fromkeys(touched)
        while waiting_list:
            name = next(iter(waiting_list))
            del waiting_list[name]
            if not self._raise(name, waiting_list):
                self.moved = None
                return None
        while self.low:
            name = next(iter(self.low))
            del self.low[name]
            self._lower(name)
        return self.standing

    def _raise(self, name: str, waiting_list: dict[str, None]) -> bool:
        if not self.crossing[name]:
            del self.crossing[name], self.standing[name]
            return True
        before = self.standing.get(name, _NOTHING)
        self.work_left -= 1
        try:
            now = self._work_out(name)
        except Overbooked:
            return False  # perhaps only because of headroom elsewhere
        if now.wait_us <= before.delay_us:
            self._stand(name, before.delay_us, now)
            if before.delay_us > now.wait_us * (1 + SLACK):
                self.low[name] = None
            return True
        delay_us = now.wait_us * (1 + HEADROOM)
        self._stand(name, delay_us, now)
        for behind, bits in self._growth_behind(name, delay_us - before.delay_us).items():
            if self._grow(behind, bits, delay_us - before.delay_us):
                waiting_list[behind] = None
        return self.work_left > 0 and delay_us < HOPELESS_US

    def _grow(self, name: str, bits: float, late_us: float) -> bool:
        """Note that bursts grew by as much; whether the server must be worked out anew."""
        standing = self.standing.get(name)
        if standing is None:
            return True  # a new stream's server, which is in the list anyway
        most_us = standing.most_us + bits / self.servers[name].rate_bps * 1e6
        room_bits, room_us = standing.burst_room_bits - bits, standing.lateness_room_us - late_us
        rooms = (room_bits, room_us)
        self.standing[name] = _Standing(standing.delay_us, standing.least_us, most_us, *rooms)
        return most_us > standing.delay_us or room_bits < 0 or room_us < 0

    def _lower(self, name: str) -> None:
        if name not in self.standing:
            return
        before_us = self.standing[name].delay_us
        now = self._work_out(name)
        self._stand(name, before_us, now)
        if before_us <= now.wait_us * (1 + SLACK):
            return
        delay_us = now.wait_us * (1 + HEADROOM)
        self._stand(name, delay_us, now)
        for behind, bits in self._growth_behind(name, before_us - delay_us).items():
            standing = self.standing[behind]
            least_us = standing.least_us - bits / self.servers[behind].rate_bps * 1e6
            self.standing[behind] = replace(standing, least_us=least_us)
            if standing.delay_us > least_us * (1 + SLACK):
                self.low[behind] = None

    def _stand(self, name: str, delay_us: float, now: Waiting) -> None:
        if self.moved is not None and (name not in self.standing or self.standing[name].delay_us != delay_us):
            self.moved[name] = None
        rooms = (now.burst_room_bits, now.lateness_room_us)
        self.standing[name] = _Standing(delay_us, now.wait_us, now.wait_us, *rooms)

    def _growth_behind(self, name: str, delay_us: float) -> dict[str, float]:
        """By how many bits bursts change at every server behind this one when its delay changes."""
        bits: dict[str, float] = {}
        for (_, hop), stream in self.crossing[name].items():
            grown = stream.rate_bps * delay_us / 1e6
            for behind in stream.servers[hop + 1 :]:
                bits[behind] = bits.get(behind, 0.0) + grown
        return bits

    def _work_out(self, name: str) -> Waiting:
        servers, standing = self.servers, self.standing
        crossings = []
        for (_, hop), stream in self.crossing[name].items():
            jitter_us, lateness_us, before = stream.jitter_us, 0.0, ""
            for before in stream.servers[:hop]:
                server = servers[before]
                delay_us = standing[before].delay_us if before in standing else 0.0
                jitter_us += max(0.0, delay_us - server.quickest_us) + server.variation_us
                lateness_us += delay_us + server.transit_us
            burst_bits = stream.burst_bits + stream.rate_bps * jitter_us / 1e6
            line = servers[before].line if before else None
            crossings.append(Crossing(stream.activity, before, line, burst_bits, stream.rate_bps, lateness_us))
        return waiting(servers[name], crossings, self.clock_us)


_NOTHING = _Standing(0.0, 0.0, 0.0, 0.0, 0.0)
