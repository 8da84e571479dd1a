"""Which streams cross which servers, in sums: what a server's delay depends on, and what depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from controller.booking.peak_load import ALWAYS
from controller.calculus.busy_period import Overbooked
from controller.calculus.curves import InputLink, Server, longest_wait_us
from controller.calculus.fixed_point import Stream
from controller.domain.frozen import frozen

Key = TypeVar("Key")
Rates = dict[str, float]


@frozen
class Inflow:
    """The streams that come to a server over one line (None: not over a server's). Their burst there is `burst_bits`,
    which no delay changes, and for every server in `ahead` the rate of those that came through it times the spread of
    its delay.
    """

    line: InputLink | None
    burst_bits: float
    rate_bps: float
    ahead: Rates
    streams: int

    def shifted(self, streams: int, rate_bps: float, burst_bits: float, ahead: Iterable[str]) -> Inflow:
        """With one stream more or less (1 or -1), of such a rate and burst, that came through the servers `ahead`."""
        rates = self.ahead.copy()
        _add(rates, ahead, rate_bps)
        return Inflow(
            self.line, self.burst_bits + burst_bits, self.rate_bps + rate_bps, rates, self.streams + streams
        )


@dataclass(slots=True)
class Load(Generic[Key]):
    """What comes to a server: `inflows` by the server before; `behind`: the rates that go on to other servers."""

    inflows: dict[str, Inflow] = field(default_factory=dict)
    behind: Rates = field(default_factory=dict)
    streams: dict[tuple[Key, int], Stream] = field(default_factory=dict)
    rate_bps: float = 0.0
    """Of all streams together."""
    mixed: int = 0
    """How many of the streams are not always there."""

    def longest_wait_us(self, server: Server, spread_s: Rates) -> float:
        """How long it makes its streams wait at most if all are always there. `spread_s`: of the delays before it.

        Raises: Overbooked
        """
        if self.rate_bps >= server.rate_bps:
            raise Overbooked
        groups = []
        for inflow in self.inflows.values():
            burst_bits = inflow.burst_bits
            for before, before_bps in inflow.ahead.items():
                burst_bits += before_bps * spread_s[before]
            groups.append((inflow.line, burst_bits, inflow.rate_bps))
        return longest_wait_us(server, groups)

    def copy(self) -> Load[Key]:
        """One that may be changed."""
        return Load(self.inflows.copy(), self.behind.copy(), self.streams.copy(), self.rate_bps, self.mixed)


class Traffic(Generic[Key]):
    """The load of every server that a stream crosses; `changed` shares with the old one what stays as it is."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.servers = servers
        self.loads: dict[str, Load[Key]] = {}

    def changed(
        self, added: Mapping[Key, Stream], removed: Mapping[Key, Stream], touched: Iterable[str]
    ) -> Traffic[Key]:
        """Without the streams `removed` and with those `added`; `touched`: the servers that these cross."""
        following: Traffic[Key] = Traffic(self.servers)
        following.loads = dict(self.loads)
        for name in touched:
            load = self.loads.get(name)
            following.loads[name] = Load() if load is None else load.copy()
        for key, stream in removed.items():
            following._shift(key, stream, -1)
        for key, stream in added.items():
            following._shift(key, stream, 1)
        for name in touched if removed else ():
            if not following.loads[name].streams:
                del following.loads[name]
        return following

    def _shift(self, key: Key, stream: Stream, sign: int) -> None:
        """Put a stream in (1) or take it out (-1)."""
        servers, rate_bps, jitter_us, before = stream.servers, sign * stream.rate_bps, stream.jitter_us, ""
        mixed = 0 if stream.activity is ALWAYS or stream.activity == ALWAYS else sign
        for hop, name in enumerate(servers):
            load = self.loads[name]
            inflow = load.inflows.get(before) or Inflow(self.servers[before].line if before else None, 0.0, 0.0, {}, 0)
            burst_bits = sign * stream.burst_bits + rate_bps * jitter_us / 1e6
            inflow = inflow.shifted(sign, rate_bps, burst_bits, servers[:hop])
            if inflow.streams:
                load.inflows[before] = inflow
            else:
                del load.inflows[before]
            _add(load.behind, servers[hop + 1 :], rate_bps)
            if sign > 0:
                load.streams[key, hop] = stream
            else:
                del load.streams[key, hop]
            load.rate_bps += rate_bps
            load.mixed += mixed
            jitter_us += self.servers[name].variation_us
            before = name


def _add(rates: Rates, names: Iterable[str], rate_bps: float) -> None:
    if rate_bps > 0:
        for name in names:
            rates[name] = rates.get(name, 0.0) + rate_bps
        return
    for name in names:
        now_bps = rates.get(name, 0.0) + rate_bps
        if now_bps > 0:
            rates[name] = now_bps
        else:
            rates.pop(name, None)


def servers_of(streams: Iterable[Stream]) -> dict[str, None]:
    """The servers that these streams cross, as each comes to them."""
    return dict.fromkeys(chain.from_iterable(stream.servers for stream in streams))
