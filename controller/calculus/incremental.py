"""How the delays of all servers become a proof again after a change.

The delays D are a proof as long as F(D) <= D (see `fixpoint`). A stream that comes raises F at the servers it crosses;
where F rises above D, D is raised with a little headroom, and the streams through that server take the growth to the
servers behind. There the growth of F is first estimated from above (F grows by no more than the bursts do, over the
rate), and F is worked out only when the bursts may have grown by more than there was room for: with headroom on the way
most changes end where they began. A stream that goes lowers F. Lowering one D to its F leaves F(D) <= D true
everywhere, so going down may stop anywhere; it goes on where D is more than `SLACK` above F.

Where all streams end and all are always there, D is left open: no F depends on it, so it is F itself when asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from controller.calculus.busy_period import HOPELESS_US, CrossFlow, Overbooked, Waiting, tells_apart, waiting
from controller.calculus.curves import Server
from controller.calculus.server_load import Load, Rates, Traffic

HEADROOM = 0.02
SLACK = 0.05
"""How far a delay may stand above what is needed: when it is raised, and before it is lowered."""

REPAIRS = 20
"""So many times as many servers as there are may be worked out anew before starting from zero is quicker."""

Key = TypeVar("Key")


@dataclass(slots=True)
class Proof:
    """The proven delay D of every server and by how much it can vary; by how much the bursts there may grow before F
    may be above D (`room_bits`), and shrink before D may be more than SLACK above F (`surplus_bits`). Servers whose
    streams are not always there have rooms: how much more bursts (in us of the server's rate) and lateness may grow
    before it is known no more who meets whom.
    """

    delay_us: Rates
    spread_s: Rates
    room_bits: Rates
    surplus_bits: Rates
    rooms_us: dict[str, tuple[float, float]]

    @staticmethod
    def of(servers: Mapping[str, Server], delay_us: Rates, mixed: Iterable[str]) -> Proof:
        """These delays are proven, and of rooms nothing is known yet."""
        proof = Proof({}, {}, {}, {}, dict.fromkeys(mixed, (0.0, 0.0)))
        for name, each_us in delay_us.items():
            proof.put(name, servers[name], each_us, each_us)
        return proof

    def copy(self) -> Proof:
        """One that may be changed."""
        bits = self.room_bits.copy(), self.surplus_bits.copy()
        return Proof(self.delay_us.copy(), self.spread_s.copy(), *bits, self.rooms_us.copy())

    def put(self, name: str, server: Server, wait_us: float, delay_us: float) -> float:
        """D at a server, where F is `wait_us`; by how much its spread grows, in s."""
        self.delay_us[name] = delay_us
        spread_s, before_s = max(0.0, delay_us - server.quickest_us) / 1e6, self.spread_s.get(name, 0.0)
        self.spread_s[name] = spread_s
        self.keep(name, server, wait_us, delay_us)
        return spread_s - before_s

    def keep(self, name: str, server: Server, wait_us: float, delay_us: float) -> None:
        """D at a server stays as it is, where F is `wait_us` now."""
        bits_per_us = server.rate_bps / 1e6
        self.room_bits[name] = (delay_us - wait_us) * bits_per_us
        self.surplus_bits[name] = (wait_us - delay_us / (1 + SLACK)) * bits_per_us

    def leave_open(self, server: str) -> None:
        """Whoever asks for D there works it out."""
        self.delay_us.pop(server, None)
        self.rooms_us.pop(server, None)
        self.room_bits[server] = self.surplus_bits[server] = inf

    def forget(self, server: str) -> None:
        """No stream crosses it any more."""
        for table in (self.delay_us, self.spread_s, self.room_bits, self.surplus_bits, self.rooms_us):
            table.pop(server, None)


class Repair(Generic[Key]):
    """One change: the traffic as it is now, and the proof from before, which is made good."""

    def __init__(self, traffic: Traffic[Key], proof: Proof, clock_us: float) -> None:
        self.traffic = traffic
        self.servers = traffic.servers
        self.proof = proof.copy()
        self.clock_us = clock_us
        self.moved: set[str] = set()
        self._high: dict[str, None] = {}
        self._low: dict[str, None] = {}

    def run(self, touched: Iterable[str], raised: Collection[str]) -> bool:
        """Raise and lower until it is proven again; whether that came to an end.

        `touched`: the servers that streams have come to or left; `raised`: those of them that some have come to.
        """
        for name in touched:
            load = self.traffic.loads.get(name)
            if load is None:
                self.proof.forget(name)
            elif not load.behind and not load.mixed:
                if load.rate_bps >= self.servers[name].rate_bps:
                    return False
                self.proof.leave_open(name)
                self.moved.add(name)
            elif name in raised or load.mixed or name in self.proof.rooms_us:
                self._high[name] = None
                if name not in self.proof.delay_us:
                    self.proof.put(name, self.servers[name], 0.0, 0.0)
            else:  # less of what is always there cannot make anybody wait longer
                self._low[name] = None
        work_left = REPAIRS * (len(self.proof.delay_us) + len(self._high))
        while self._high:
            name = next(iter(self._high))
            del self._high[name]
            work_left -= 1
            try:
                if work_left < 0 or self._raise(name) > HOPELESS_US:
                    return False
            except Overbooked:
                return False
        while self._low:
            name = next(iter(self._low))
            del self._low[name]
            self._lower(name)
        return True

    def _raise(self, name: str) -> float:
        proof = self.proof
        before_us, wait_us = proof.delay_us[name], self._work_out(name)
        if wait_us <= before_us:
            proof.keep(name, self.servers[name], wait_us, before_us)
            if before_us > wait_us * (1 + SLACK):
                self._low[name] = None
            return before_us
        delay_us = wait_us * (1 + HEADROOM)
        self.moved.add(name)
        spread_s = proof.put(name, self.servers[name], wait_us, delay_us)
        room_bits, behind = proof.room_bits, self.traffic.loads[name].behind
        for after, rate_bps in behind.items():
            left_bits = room_bits[after] = room_bits[after] - rate_bps * spread_s
            if left_bits < 0:
                self._high[after] = None
        for after in proof.rooms_us.keys() & behind.keys() if proof.rooms_us else ():
            bursts_us, lateness_us = proof.rooms_us[after]
            bursts_us -= behind[after] * spread_s * 1e6 / self.servers[after].rate_bps
            lateness_us -= delay_us - before_us
            proof.rooms_us[after] = bursts_us, lateness_us
            if min(bursts_us, lateness_us) < 0:
                self._high[after] = None
        return delay_us

    def _lower(self, name: str) -> None:
        proof = self.proof
        before_us, wait_us = proof.delay_us[name], self._work_out(name)
        if before_us <= wait_us * (1 + SLACK):
            proof.keep(name, self.servers[name], wait_us, before_us)
            return
        self.moved.add(name)
        spread_s = proof.put(name, self.servers[name], wait_us, wait_us * (1 + HEADROOM))
        surplus_bits = proof.surplus_bits
        for after, rate_bps in self.traffic.loads[name].behind.items():
            left_bits = surplus_bits[after] = surplus_bits[after] + rate_bps * spread_s
            if left_bits < 0:
                self._low[after] = None

    def _work_out(self, name: str) -> float:
        """F at a server, as it is now.

        Raises: Overbooked
        """
        server, load, proof = self.servers[name], self.traffic.loads[name], self.proof
        if load.mixed and tells_apart(load.mixed, load.rate_bps, server):
            now = self._mixed_wait(server, load)
            proof.rooms_us[name] = now.burst_room_bits / server.rate_bps * 1e6, now.lateness_room_us
            return now.wait_us
        if proof.rooms_us:
            proof.rooms_us.pop(name, None)
        return load.longest_wait_us(server, proof.spread_s)

    def _mixed_wait(self, server: Server, load: Load[Key]) -> Waiting:
        crossings = []
        for (_, hop), stream in load.streams.items():
            jitter_us, lateness_us, before = stream.jitter_us, 0.0, ""
            for before in stream.servers[:hop]:
                jitter_us += self.proof.spread_s[before] * 1e6 + self.servers[before].variation_us
                lateness_us += self.proof.delay_us[before] + self.servers[before].transit_us
            burst_bits = stream.burst_bits + stream.rate_bps * jitter_us / 1e6
            line = self.servers[before].line if before else None
            crossings.append(CrossFlow(stream.activity, before, line, burst_bits, stream.rate_bps, lateness_us))
        return waiting(server, crossings, self.clock_us)
