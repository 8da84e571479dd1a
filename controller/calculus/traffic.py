"""Which streams cross which servers, in sums: what a server's delay depends on, and what depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from controller.calculus.curves import Server
from controller.calculus.fixpoint import Stream
from controller.peaks import ALWAYS

Key = TypeVar("Key")
Rates = dict[str, float]


@dataclass(slots=True)
class Inflow:
    """The streams that come to a server over one line. Their burst there is `burst_bits`, which no delay changes, and
    for every server in `ahead` the rate of those that came through it times the spread of its delay.
    """

    burst_bits: float = 0.0
    rate_bps: float = 0.0
    ahead: Rates = field(default_factory=dict)
    streams: int = 0


@dataclass(slots=True)
class Load(Generic[Key]):
    """What comes to a server: `inflows` by the server before; `behind`: the rates that go on to other servers."""

    inflows: dict[str, Inflow] = field(default_factory=dict)
    behind: Rates = field(default_factory=dict)
    streams: dict[tuple[Key, int], Stream] = field(default_factory=dict)
    mixed: int = 0
    """How many of the streams are not always there."""

    def copy(self) -> Load[Key]:
        """One that may be changed."""
        inflows = {
            name: Inflow(inflow.burst_bits, inflow.rate_bps, inflow.ahead.copy(), inflow.streams)
            for name, inflow in self.inflows.items()
        }
        return Load(inflows, self.behind.copy(), self.streams.copy(), self.mixed)


class Traffic(Generic[Key]):
    """The load of every server that a stream crosses; `changed` shares with the old one what stays as it is."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.servers = servers
        self.loads: dict[str, Load[Key]] = {}

    def changed(self, added: Mapping[Key, Stream], removed: Mapping[Key, Stream]) -> Traffic[Key]:
        """Without the streams `removed` and with those `added`."""
        following: Traffic[Key] = Traffic(self.servers)
        following.loads = dict(self.loads)
        for name in servers_of([*removed.values(), *added.values()]):
            following.loads[name] = following.loads[name].copy() if name in following.loads else Load()
        for key, stream in removed.items():
            following._shift(key, stream, -1)
        for key, stream in added.items():
            following._shift(key, stream, 1)
        for name in servers_of(removed.values()):
            if not following.loads[name].streams:
                del following.loads[name]
        return following

    def _shift(self, key: Key, stream: Stream, sign: int) -> None:
        """Put a stream in (1) or take it out (-1)."""
        rate_bps, jitter_us, before = sign * stream.rate_bps, stream.jitter_us, ""
        is_mixed = stream.activity is not ALWAYS and stream.activity != ALWAYS
        for hop, name in enumerate(stream.servers):
            load = self.loads[name]
            inflow = load.inflows.get(before)
            if inflow is None:
                inflow = load.inflows[before] = Inflow()
            inflow.burst_bits += sign * (stream.burst_bits + stream.rate_bps * jitter_us / 1e6)
            inflow.rate_bps += rate_bps
            _add(inflow.ahead, stream.servers[:hop], rate_bps)
            _add(load.behind, stream.servers[hop + 1 :], rate_bps)
            if sign > 0:
                load.streams[key, hop] = stream
            else:
                del load.streams[key, hop]
            inflow.streams += sign
            if not inflow.streams:
                del load.inflows[before]
            load.mixed += sign * is_mixed
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


def servers_of(streams: Iterable[Stream]) -> set[str]:
    """The servers that these streams cross."""
    return {name for stream in streams for name in stream.servers}
