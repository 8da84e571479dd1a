"""How the delays of all servers become a proof again after a change.

The delays D are a proof as long as F(D) <= D (see `fixpoint`). A stream that comes raises F at the servers it crosses;
where F rises above D, D is raised with a little headroom, and the streams through that server take the growth to the
servers behind. There the growth of F is first estimated from above (F grows by no more than the bursts do, over the
rate) and worked out only when the estimate reaches D: with headroom on the way most changes end where they began. A
stream that goes lowers F. Lowering one D to its F leaves F(D) <= D true everywhere, so going down may stop anywhere;
it goes on where D is more than `SLACK` above F.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from controller.calculus.curves import Server, longest_wait_us
from controller.calculus.traffic import Load, Rates, Traffic
from controller.calculus.waiting import HOPELESS_US, Crossing, Overbooked, Waiting, tells_apart, waiting

HEADROOM = 0.01
SLACK = 0.03
"""How far a delay may stand above what is needed: when it is raised, and before it is lowered."""

REPAIRS = 20
"""So many times as many servers as there are may be worked out anew before starting from zero is quicker."""

Key = TypeVar("Key")


@dataclass(slots=True)
class Proof:
    """The proven delay D of every server and by how much it can vary; F is between `least_us` and `most_us`. Servers
    whose streams are not always there have rooms: how much more bursts (in us of the server's rate) and lateness may
    grow before it is known no more who meets whom.
    """

    delay_us: Rates
    spread_s: Rates
    least_us: Rates
    most_us: Rates
    rooms_us: dict[str, tuple[float, float]] = field(default_factory=dict)

    def copy(self) -> Proof:
        """One that may be changed."""
        delays = dict(self.delay_us), dict(self.spread_s)
        return Proof(*delays, dict(self.least_us), dict(self.most_us), dict(self.rooms_us))

    def forget(self, server: str) -> None:
        """No stream crosses it any more."""
        for table in (self.delay_us, self.spread_s, self.least_us, self.most_us, self.rooms_us):
            table.pop(server, None)


def spread_s(server: Server, delay_us: float) -> float:
    """By how much the delay at a server can vary, in s."""
    return max(0.0, delay_us - server.quickest_us) / 1e6


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
            elif name in raised or load.mixed or name in self.proof.rooms_us:
                self._high[name] = None
                if name not in self.proof.delay_us:
                    self._set(name, 0.0)
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
        proof, servers = self.proof, self.servers
        delays_us, growing_us = proof.delay_us, proof.most_us
        before_us, wait_us = delays_us.get(name, 0.0), self._work_out(name)
        if wait_us <= before_us:
            if before_us > wait_us * (1 + SLACK):
                self._low[name] = None
            return before_us
        delay_us = wait_us * (1 + HEADROOM)
        spread_us = self._set(name, delay_us) * 1e6
        behind = self.traffic.loads[name].behind
        for after, rate_bps in behind.items():
            grown_us = rate_bps * spread_us / servers[after].rate_bps
            most_us = growing_us[after] = growing_us.get(after, 0.0) + grown_us
            if most_us > delays_us.get(after, 0.0):
                self._high[after] = None
        for after in proof.rooms_us.keys() & behind.keys() if proof.rooms_us else ():
            bursts_us, lateness_us = proof.rooms_us[after]
            bursts_us -= behind[after] * spread_us / servers[after].rate_bps
            lateness_us -= delay_us - before_us
            proof.rooms_us[after] = bursts_us, lateness_us
            if min(bursts_us, lateness_us) < 0:
                self._high[after] = None
        return delay_us

    def _lower(self, name: str) -> None:
        proof, servers = self.proof, self.servers
        delays_us, shrinking_us = proof.delay_us, proof.least_us
        before_us, wait_us = delays_us[name], self._work_out(name)
        if before_us <= wait_us * (1 + SLACK):
            return
        spread_us = -self._set(name, wait_us * (1 + HEADROOM)) * 1e6
        for after, rate_bps in self.traffic.loads[name].behind.items():
            shrunk_us = rate_bps * spread_us / servers[after].rate_bps
            least_us = shrinking_us[after] = shrinking_us[after] - shrunk_us
            if delays_us[after] > least_us * (1 + SLACK):
                self._low[after] = None

    def _set(self, name: str, delay_us: float) -> float:
        """Set a server's delay; returns by how much its spread grows, in s."""
        self.moved.add(name)
        proof = self.proof
        proof.delay_us[name] = delay_us
        before_s = proof.spread_s.get(name, 0.0)
        now_s = proof.spread_s[name] = spread_s(self.servers[name], delay_us)
        return now_s - before_s

    def _work_out(self, name: str) -> float:
        """F at a server, as it is now.

        Raises: Overbooked
        """
        server, load, proof = self.servers[name], self.traffic.loads[name], self.proof
        if load.mixed and tells_apart(load.mixed, load.rate_bps, server):
            now = self._mixed_wait(server, load)
            wait_us = now.wait_us
            rooms = (now.burst_room_bits / server.rate_bps * 1e6, now.lateness_room_us)
            proof.rooms_us[name] = rooms
        else:
            wait_us = self._plain_wait_us(server, load)
            if proof.rooms_us:
                proof.rooms_us.pop(name, None)
        proof.least_us[name] = proof.most_us[name] = wait_us
        return wait_us

    def _plain_wait_us(self, server: Server, load: Load[Key]) -> float:
        if load.rate_bps >= server.rate_bps:
            raise Overbooked
        spread_s = self.proof.spread_s
        groups = []
        for inflow in load.inflows.values():
            burst_bits = inflow.burst_bits
            for ahead, rate_bps in inflow.ahead.items():
                burst_bits += rate_bps * spread_s[ahead]
            groups.append((inflow.line, burst_bits, inflow.rate_bps))
        return longest_wait_us(server, groups)

    def _mixed_wait(self, server: Server, load: Load[Key]) -> Waiting:
        crossings = []
        for (_, hop), stream in load.streams.items():
            jitter_us, lateness_us, before = stream.jitter_us, 0.0, ""
            for before in stream.servers[:hop]:
                jitter_us += self.proof.spread_s[before] * 1e6 + self.servers[before].variation_us
                lateness_us += self.proof.delay_us[before] + self.servers[before].transit_us
            burst_bits = stream.burst_bits + stream.rate_bps * jitter_us / 1e6
            line = self.servers[before].line if before else None
            crossings.append(Crossing(stream.activity, before, line, burst_bits, stream.rate_bps, lateness_us))
        return waiting(server, crossings, self.clock_us)
