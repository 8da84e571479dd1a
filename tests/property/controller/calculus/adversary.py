"""An adversary: searches for the traffic that delays one flow most in a network of packets.

Every server waits for its latency at the start of each busy period and then serves at its rate; every source stays
within its token bucket. The search moves the bursts of the other flows so that they meet the victim's latest packet at
a server that both cross, or at random, takes the best move, and repeats until none helps.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from controller.calculus.fifo_network import FifoNetwork

EPSILON_US = 1e-6


@dataclass(frozen=True)
class Traffic:
    """For each flow: the instants at which it begins to send a burst, ascending; it then sends greedily for `spell_us`.
    """

    starts_us: tuple[tuple[float, ...], ...]
    spell_us: tuple[float, ...]
    is_first: tuple[bool, ...]
    """Whether its packets precede others that arrive at the same instant."""


@dataclass(frozen=True)
class Outcome:
    """The largest delay of the victim, and when each flow's packets arrived at each server on its path."""

    delay_us: float
    latest: int
    """Which of the victim's packets."""
    arrivals_us: list[list[list[float]]]
    """By flow, packet, hop."""


class Adversary:
    """Searches for the worst traffic for one flow."""

    def __init__(self, network: FifoNetwork, packet: float, victim: int, chance: random.Random) -> None:
        self.network = network
        self.packet = packet
        self.victim = victim
        self.chance = chance
        self.simulations = 0

    def search(self, restarts: int, steps: int) -> float:
        """Return the largest delay found."""
        worst_us = 0.0
        for _ in range(restarts):
            traffic = self.random_traffic()
            outcome = self._outcome(traffic)
            for _ in range(steps):
                better = self._best_move(traffic, outcome)
                if better is None:
                    break
                traffic, outcome = better
            worst_us = max(worst_us, outcome.delay_us)
        return worst_us

    def random_traffic(self) -> Traffic:
        """Return one or two bursts of every flow at random instants."""
        flows = self.network.flows
        horizon_us = 2 * max(self._scale_us(), 1.0)
        starts = tuple(
            tuple(sorted(self.chance.uniform(0, horizon_us) for _ in range(self.chance.choice((1, 1, 2)))))
            for _ in flows
        )
        spells = tuple(self.chance.choice((0.0, horizon_us)) for _ in flows)
        return Traffic(starts, spells, tuple(self.chance.random() < 0.7 for _ in flows))

    def _outcome(self, traffic: Traffic) -> Outcome:
        self.simulations += 1
        return simulate(self.network, self.packet, traffic, self.victim)

    def _scale_us(self) -> float:
        burst = sum(flow.bucket.burst for flow in self.network.flows)
        return burst / min(server.curves[0].rate for server in self.network.servers.values())

    def _best_move(self, traffic: Traffic, outcome: Outcome) -> tuple[Traffic, Outcome] | None:
        best: tuple[Traffic, Outcome] | None = None
        for candidate in self._moves(traffic, outcome):
            result = self._outcome(candidate)
            if result.delay_us > (best[1] if best else outcome).delay_us + EPSILON_US:
                best = candidate, result
        return best

    def _moves(self, traffic: Traffic, outcome: Outcome) -> Iterator[Traffic]:
        path = self.network.flows[self.victim].servers
        met_us = dict(zip(path, outcome.arrivals_us[self.victim][outcome.latest], strict=True))
        for number, flow in enumerate(self.network.flows):
            if number == self.victim:
                continue
            for hop, name in enumerate(flow.servers):
                if name not in met_us:
                    continue
                seen_us = [packet[hop] for packet in outcome.arrivals_us[number]]
                for own_us in {seen_us[0], seen_us[-1], seen_us[len(seen_us) // 2]}:
                    yield self._shifted(traffic, number, met_us[name] - own_us)
            toggled = list(traffic.is_first)
            toggled[number] = not toggled[number]
            yield replace(traffic, is_first=tuple(toggled))
            spells = list(traffic.spell_us)
            spells[number] = 0.0 if spells[number] else 2 * self._scale_us()
            yield replace(traffic, spell_us=tuple(spells))
        for _ in range(6):
            number = self.chance.randrange(len(self.network.flows))
            yield self._shifted(traffic, number, self.chance.gauss(0, self._scale_us() / 4))

    def _shifted(self, traffic: Traffic, number: int, by_us: float) -> Traffic:
        starts = list(traffic.starts_us)
        starts[number] = tuple(start + by_us for start in starts[number])
        return replace(traffic, starts_us=tuple(starts))


def simulate(
    network: FifoNetwork, packet: float, traffic: Traffic, victim: int, chance: random.Random | None = None
) -> Outcome:
    """Run the packets of this traffic through the network. `chance`: decides now and then for less than the largest
    latency and transit; packets on one link keep their order.
    """
    events: list[tuple[float, bool, int, int, int]] = []
    arrivals: list[list[list[float]]] = []
    for number in range(len(network.flows)):
        sent = list(_sending_us(network, number, packet, traffic))
        arrivals.append([[instant] for instant in sent])
        for index, instant in enumerate(sent):
            heapq.heappush(events, (instant, not traffic.is_first[number], number, index, 0))
    free_us = dict.fromkeys(network.servers, -1e18)
    left_us: list[tuple[float, int]] = []
    came_us: dict[str, float] = {}
    while events:
        instant, tie, number, index, hop = heapq.heappop(events)
        path = network.flows[number].servers
        server = network.servers[path[hop]]
        curve = server.curves[0]
        is_slow = chance is None or chance.random() < 0.5
        waiting_us = curve.latency_us if is_slow else 0.0
        begin_us = free_us[path[hop]] if free_us[path[hop]] > instant else instant + waiting_us
        done_us = free_us[path[hop]] = begin_us + packet / curve.rate
        if hop + 1 < len(path):
            transit_us = server.max_transit_us if is_slow else server.min_transit_us
            arrived_us = came_us[path[hop]] = max(done_us + transit_us, came_us.get(path[hop], -1e18))
            arrivals[number][index].append(arrived_us)
            heapq.heappush(events, (arrived_us, tie, number, index, hop + 1))
        elif number == victim:
            left_us.append((done_us - arrivals[number][index][0], index))
    delay_us, latest = max(left_us)
    return Outcome(delay_us, latest, arrivals)


def _sending_us(network: FifoNetwork, number: int, packet: float, traffic: Traffic) -> Iterator[float]:
    bucket = network.flows[number].bucket
    tokens, last_us = bucket.burst, traffic.starts_us[number][0]
    for start_us in traffic.starts_us[number]:
        instant = max(start_us, last_us)
        while True:
            tokens = min(bucket.burst, tokens + bucket.rate * (instant - last_us))
            last_us = instant
            if tokens < packet - 1e-12:
                instant += (packet - tokens) / bucket.rate
                if instant > start_us + traffic.spell_us[number]:
                    break
                continue
            tokens -= packet
            yield instant
