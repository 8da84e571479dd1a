"""Restores the proof F(D) <= D after a change of streams, without a new fixed-point iteration.

The delays D are proven as long as F(D) <= D (see `fixed_point`). An added stream increases F at the servers it crosses.
Where F exceeds D, D is raised with headroom, and the larger jitter propagates to the downstream servers. There the
growth of F is first estimated from above (F grows by at most the added bursts over the service rate); F is evaluated
only when the bursts may have grown by more than the slack: with the headroom on the way, most changes propagate no
further. A removed stream decreases F. Lowering one D to its F preserves F(D) <= D everywhere; it continues where D
exceeds F by more than the tolerance.

D stays within MAX_EXCESS of the least fixed point, whatever the sequence of changes. F is concave: with F0 its value
without jitter of delays and d the least delays, F(d + (D - d) / (1 + e)) >= (F(D) + e F0) / (1 + e). Where the excess
D - F(D) is at most e (F0 - d) this is at least d + (D - d) / (1 + e): the right-hand side satisfies L <= F(L) and is
therefore no larger than the least fixed point. The excess tolerated at each server is so e (F0 - d): a feedback that
amplifies it raises D in proportion. At servers with intermittent streams F can jump where further streams become
concurrent. If those sets of streams suffice that are concurrent whatever the delays, F has no jump that matters; else
the inequality is evaluated. The update fails if it does not hold, or if the longer delays may keep themselves up in a
circle.

At servers where all streams end and all are always active, D is deferred: no F depends on it, so it is evaluated as F
on demand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from controller.calculus.busy_period import (
    MAX_DELAY_US,
    Unstable,
    considers_activities,
    least_server_delay_us,
    may_become_concurrent,
    server_delay,
)
from controller.calculus.curves import Server
from controller.calculus.server_load import NetworkLoad, Rates, ServerLoad

MAX_EXCESS = 0.02
"""By how much the delays may exceed the least fixed point, relative."""

HEADROOM_SHARE = 0.6
"""The headroom of a raised or lowered delay, relative to the tolerated excess."""

TIGHT_HEADROOM_SHARE = 0.02
"""The same where delays are close to a limit: more evaluations, larger by at most a twentieth of a per cent."""

UPDATES_PER_SERVER = 20
"""After this many evaluations per server a new fixed-point iteration is faster."""

Key = TypeVar("Key")


@dataclass(slots=True)
class Proof:
    """The delay bound D of every server and its jitter (`spread_s`), with the slack of the proof.

    `slack_bits`: how much the bursts may grow before F may exceed D. `surplus_bits`: how much they may shrink before D
    may exceed F by more than is tolerated. `activity_slack_us`: at servers with intermittent streams, how much bursts
    (in us of the service rate) and lateness may grow before the sets of concurrent streams may change.
    """

    delay_us: Rates
    spread_s: Rates
    slack_bits: Rates
    surplus_bits: Rates
    activity_slack_us: dict[str, tuple[float, float]]

    @staticmethod
    def of(servers: Mapping[str, Server], delay_us: Rates, intermittent: Iterable[str]) -> Proof:
        """Return a proof of these delays with unknown slack."""
        proof = Proof({}, {}, {}, {}, dict.fromkeys(intermittent, (0.0, 0.0)))
        for name, known_us in delay_us.items():
            proof.set_delay(name, servers[name], known_us, known_us, 0.0)
        return proof

    def copy(self) -> Proof:
        """Return a copy that may be modified."""
        bits = self.slack_bits.copy(), self.surplus_bits.copy()
        return Proof(self.delay_us.copy(), self.spread_s.copy(), *bits, self.activity_slack_us.copy())

    def set_delay(self, name: str, server: Server, bound_us: float, delay_us: float, tolerated_us: float) -> float:
        """Set D of a server, where F is `bound_us`; return the growth of its jitter in s."""
        self.delay_us[name] = delay_us
        jitter_us, before_s = delay_us - server.min_delay_us, self.spread_s.get(name, 0.0)
        spread_s = self.spread_s[name] = jitter_us / 1e6 if jitter_us > 0 else 0.0
        bits_per_us, excess_us = server.rate_bps / 1e6, delay_us - bound_us
        self.slack_bits[name] = excess_us * bits_per_us
        self.surplus_bits[name] = (tolerated_us - excess_us) * bits_per_us
        return spread_s - before_s

    def update_slack(
        self, name: str, server: Server, bound_us: float, delay_us: float, tolerated_us: float
    ) -> None:
        """Recompute the slack of a server with unchanged D, where F is now `bound_us`."""
        bits_per_us, excess_us = server.rate_bps / 1e6, delay_us - bound_us
        self.slack_bits[name] = excess_us * bits_per_us
        self.surplus_bits[name] = (tolerated_us - excess_us) * bits_per_us

    def defer(self, server: str) -> None:
        """Mark D of a server as evaluated on demand."""
        self.delay_us.pop(server, None)
        self.activity_slack_us.pop(server, None)
        self.slack_bits[server] = self.surplus_bits[server] = inf

    def remove(self, server: str) -> None:
        """Remove a server that no stream crosses any more."""
        for table in (self.delay_us, self.spread_s, self.slack_bits, self.surplus_bits, self.activity_slack_us):
            table.pop(server, None)


class ProofUpdate(Generic[Key]):
    """One change: the load after it, and the proof from before it, which is restored."""

    def __init__(self, load: NetworkLoad[Key], proof: Proof, clock_us: float, headroom_share: float) -> None:
        self.load = load
        self.servers = load.servers
        self.proof = proof.copy()
        self.clock_us = clock_us
        self.headroom_share = headroom_share
        self.changed_servers: set[str] = set()
        self._changing_sets: set[str] = set()
        self._jitter_us: Rates = {}
        """By how much jitter delays at servers analysed by sets, at most."""
        self._to_raise: OrderedDict[str, None] = OrderedDict()
        self._to_lower: OrderedDict[str, None] = OrderedDict()

    def run(self, touched: Iterable[str], raised: Collection[str]) -> bool:
        """Raise and lower delays until the proof is restored; return whether that succeeded.

        `touched`: the servers that an added or removed stream crosses; `raised`: those that an added stream crosses.
        """
        for name in touched:
            server_load = self.load.loads.get(name)
            if server_load is None:
                self.proof.remove(name)
            elif not server_load.downstream_bps and not server_load.intermittent:
                if server_load.rate_bps >= self.servers[name].rate_bps:
                    return False
                self.proof.defer(name)
                self.changed_servers.add(name)
            elif name in raised or server_load.intermittent or name in self.proof.activity_slack_us:
                self._to_raise[name] = None
                if name not in self.proof.delay_us:
                    self.proof.set_delay(name, self.servers[name], 0.0, 0.0, 0.0)
            else:  # removing an always active stream cannot increase a delay
                self._to_lower[name] = None
        try:
            return self._restore() and (not self._changing_sets or self._is_least_by_sets())
        except Unstable:
            return False

    def _restore(self) -> bool:
        """Raise and lower the delays of the servers to be raised and lowered; return False if that takes too long.

        Raises: Unstable
        """
        work_left = UPDATES_PER_SERVER * (len(self.proof.delay_us) + len(self._to_raise))
        while self._to_raise:
            name, _ = self._to_raise.popitem(last=False)
            work_left -= 1
            if work_left < 0 or self._raise(name) > MAX_DELAY_US:
                return False
        while self._to_lower:
            name, _ = self._to_lower.popitem(last=False)
            work_left -= 1
            if work_left < 0:
                return False
            self._lower(name)
        return True

    def _is_least_by_sets(self) -> bool:
        """Whether the delays at the servers analysed by sets are certain to be within MAX_EXCESS of the least."""
        for name in self._changing_sets & self.proof.activity_slack_us.keys():
            server, load, delay_us = self.servers[name], self.load.loads[name], self.proof.delay_us[name]
            lateness_us = [flow.lateness_us for flow in load.cross_flows(self.servers, self.proof.spread_s, 0.0)]
            flows = load.cross_flows(self.servers, self.proof.spread_s)
            least_us = least_server_delay_us(server, flows, max(lateness_us) + self.clock_us)
            if delay_us <= least_us + self._tolerated_excess_us(name, least_us):
                continue
            shrunk_us = server.min_delay_us + (delay_us - server.min_delay_us) / (1 + MAX_EXCESS)
            shrunk = load.cross_flows(self.servers, self.proof.spread_s, 1 / (1 + MAX_EXCESS))
            if self._depends_on_itself(name) or server_delay(server, shrunk, self.clock_us).delay_us < shrunk_us:
                return False
        return True

    def _depends_on_itself(self, name: str) -> bool:
        """Whether the delay of a server affects its own, round a cycle."""
        seen: set[str] = set()
        ahead = [name]
        while ahead:
            following = self.load.loads[ahead.pop()].downstream_bps.keys() - seen
            if name in following:
                return True
            seen |= following
            ahead += following
        return False

    def _raise(self, name: str) -> float:
        """Evaluate F at a server, raise D if F exceeds it, and return D.

        Raises: Unstable
        """
        proof, server, load = self.proof, self.servers[name], self.load.loads[name]
        old_delay_us = proof.delay_us[name]
        bound_us, tolerated_us = self._delay_bound(name, server, load)
        if bound_us <= old_delay_us:
            proof.update_slack(name, server, bound_us, old_delay_us, tolerated_us)
            if old_delay_us > bound_us + tolerated_us:
                self._to_lower[name] = None
            return old_delay_us
        delay_us = bound_us + self.headroom_share * tolerated_us
        self.changed_servers.add(name)
        spread_s = proof.set_delay(name, server, bound_us, delay_us, tolerated_us)
        slack_bits, downstream_bps = proof.slack_bits, load.downstream_bps
        for successor, rate_bps in downstream_bps.items():
            rest_bits = slack_bits[successor] = slack_bits[successor] - rate_bps * spread_s
            if rest_bits < 0:
                self._to_raise[successor] = None
        for successor in proof.activity_slack_us.keys() & downstream_bps.keys() if proof.activity_slack_us else ():
            bursts_us, lateness_us = proof.activity_slack_us[successor]
            bursts_us -= downstream_bps[successor] * spread_s * 1e6 / self.servers[successor].rate_bps
            lateness_us -= delay_us - old_delay_us
            proof.activity_slack_us[successor] = bursts_us, lateness_us
            if min(bursts_us, lateness_us) < 0:
                self._to_raise[successor] = None
        return delay_us

    def _lower(self, name: str) -> None:
        """Evaluate F at a server and lower D if it exceeds F by more than is tolerated."""
        proof, server, load = self.proof, self.servers[name], self.load.loads[name]
        old_delay_us = proof.delay_us[name]
        bound_us, tolerated_us = self._delay_bound(name, server, load)
        if old_delay_us <= bound_us + tolerated_us:
            proof.update_slack(name, server, bound_us, old_delay_us, tolerated_us)
            return
        self.changed_servers.add(name)
        delay_us = bound_us + self.headroom_share * tolerated_us
        spread_s = proof.set_delay(name, server, bound_us, delay_us, tolerated_us)
        surplus_bits = proof.surplus_bits
        for successor, rate_bps in load.downstream_bps.items():
            rest_bits = surplus_bits[successor] = surplus_bits[successor] + rate_bps * spread_s
            if rest_bits < 0 or successor in proof.activity_slack_us:
                self._to_lower[successor] = None

    def _delay_bound(self, name: str, server: Server, load: ServerLoad[Key]) -> tuple[float, float]:
        """Evaluate F at a server for the current proof; return it and by how much D may exceed it.

        Raises: Unstable
        """
        proof = self.proof
        if load.intermittent and considers_activities(load.intermittent, load.rate_bps, server):
            flows = load.cross_flows(self.servers, proof.spread_s)
            result = server_delay(server, flows, self.clock_us)
            self._jitter_us[name] = load.jitter_bits(flows) / server.rate_bps * 1e6
            if may_become_concurrent(flows, result.extension_us):
                self._changing_sets.add(name)
            proof.activity_slack_us[name] = result.burst_slack_bits / server.rate_bps * 1e6, result.lateness_slack_us
            return result.delay_us, self._tolerated_excess_us(name, result.delay_us)
        if proof.activity_slack_us:
            proof.activity_slack_us.pop(name, None)
        bound_us = load.delay_bound_us(server, proof.spread_s)
        jitterless_us = load.jitterless_us
        jitter_us = (load.jitterless_delay_us(server) if jitterless_us is None else jitterless_us) - server.min_delay_us
        return bound_us, MAX_EXCESS * jitter_us if jitter_us > 0 else 0.0

    def _tolerated_excess_us(self, name: str, bound_us: float) -> float:
        """By how much D of a server analysed by sets may exceed F, which is `bound_us`."""
        server = self.servers[name]  # jitter delays by at most what it adds to the bursts
        jitter_us = max(server.latency_us, bound_us - self._jitter_us[name]) - server.min_delay_us
        return MAX_EXCESS * jitter_us if jitter_us > 0 else 0.0
