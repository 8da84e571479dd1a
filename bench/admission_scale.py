"""Admission time against the size of the calendar: a network of 1,000 nodes, 10 to 10,000 bookings.

The network: 30 x 30 switches in a grid with a chord at every twelfth, spans of 20 to 80 km at 100 Gb/s, and 100 hosts
around its edge. Bookings are single flows of 1 to 20 Mb/s between hosts, made by the decisions that are measured:
half of them start at once and have no end, the others last one hour of the next day. A decision is timed until the
reservation is recorded; candidate paths between the hosts are computed before (their time is reported separately).
Also measured: the time to recompute all bounds of 500 flows on a ring of 14 switches with chords.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import click
from rich.table import Table

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import ShapedFlow, bounds_of
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.routing.candidates import candidate_paths
from harness.report import Claim, at_most, publish
from machine.quantile import quantile
from topologies.maps import Map, MapLink, MapNode

SIDE = 30
HOSTS = 100
SIZES = (10, 100, 1_000, 10_000)
LATER_SHARE = 0.5
DECISIONS = 400
"""Decisions measured at each size; they leave the calendar at that size."""

RING, RING_FLOWS = 14, 500
NOW_S = 1_800_000_000.0


def grid(chance: random.Random, side: int = SIDE) -> Network:
    """The network of side x side switches, by default of 1,000 nodes."""
    names = {(x, y): f"s{x:02}{y:02}" for x in range(side) for y in range(side)}
    nodes = [MapNode(name, "switch", (x * 50, y * 50)) for (x, y), name in names.items()]
    spans = [(names[x, y], names[x + 1, y]) for x in range(side - 1) for y in range(side)]
    spans += [(names[x, y], names[x, y + 1]) for x in range(side) for y in range(side - 1)]
    chords = list(names)[::12]
    spans += [(names[x, y], names[(x + 7) % side, (y + 11) % side]) for x, y in chords]
    border = [name for (x, y), name in names.items() if {x, y} & {0, side - 1}]
    hosts = [(f"h{number:03}", border[number % len(border)]) for number in range(HOSTS)]
    nodes += [MapNode(name, "host", (0, 0)) for name, _ in hosts]
    links = [MapLink(ends, chance.uniform(20, 80), 1, 100) for ends in spans]
    links += [MapLink(ends, 1, 1, 100) for ends in hosts]
    return network_from_map(Map("grid", "", 1000, 9000, tuple(nodes), tuple(links)))


@dataclass
class FillingCalendar:
    """A calendar that fills up; its decisions are timed."""

    network: Network
    chance: random.Random
    calendar: Calendar = field(default_factory=Calendar)
    live: LiveReservations = field(init=False)
    number: int = 0
    count: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.live = LiveReservations(self.network)
        names = [host.name for host in self.network.hosts]
        self.pairs = [tuple(self.chance.sample(names, 2)) for _ in range(HOSTS)]

    def time_decision(self, keep: bool = True) -> float:
        """Request one more flow and keep or discard it; return the decision time in milliseconds."""
        self.number += 1
        source, destination = self.chance.choice(self.pairs)
        match = Match("udp", 1 + self.number // 60_000, 1 + self.number % 60_000)
        rate_bps = self.chance.randrange(1, 20) * 1_000_000
        flow = Flow("f", source, destination, match, Requirement(rate_bps, 20_000))
        start_s, end_s = None, inf
        if self.chance.random() < LATER_SHARE:
            start_s = NOW_S + self.chance.randrange(1, 24) * 3600.0
            end_s = start_s + 3600
        request = Request(f"r-{self.number}", 1, (flow,), start_s, end_s)
        began = time.perf_counter()
        decision = decide(self.network, self.calendar, self.live, request, NOW_S)
        before = self.calendar, self.live
        if isinstance(decision, Admitted):
            new = Reservation(
                request.reservation_id, self.number, 1, "bench", State.ACTIVE, 60, NOW_S, inf, decision.placements,
                start_at_s=start_s or NOW_S, end_at_s=None if end_s == inf else end_s,
            )  # fmt: skip
            self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        took_ms = (time.perf_counter() - began) * 1e3
        self.refused += isinstance(decision, Rejected)
        self.count += keep and isinstance(decision, Admitted)
        if not keep:
            self.calendar, self.live = before
        return took_ms


def ring() -> Network:
    """14 switches in a ring with seven chords, a host at each."""
    names = [f"s{number:02}" for number in range(RING)]
    nodes = [MapNode(name, "switch", (0, 0)) for name in names]
    nodes += [MapNode(f"h{number:02}", "host", (0, 0)) for number in range(RING)]
    spans = [(names[number], names[(number + 1) % RING]) for number in range(RING)]
    spans += [(names[number], names[number + RING // 2]) for number in range(RING // 2)]
    links = [MapLink(ends, 50, 1, 100) for ends in spans]
    links += [MapLink((f"h{number:02}", name), 1, 1, 100) for number, name in enumerate(names)]
    return network_from_map(Map("ring", "", 1000, 9000, tuple(nodes), tuple(links)))


def recheck_ms(chance: random.Random, times: int) -> list[float]:
    """Time the computation of all bounds of 500 flows, `times` times."""
    network = ring()
    hosts = [host.name for host in network.hosts]
    flows = {}
    for number in range(RING_FLOWS):
        source, destination = chance.sample(hosts, 2)
        path = chance.choice(candidate_paths(network, source, destination)[:3])
        flows[number] = ShapedFlow(path, chance.randrange(1, 100) * 1_000_000, 20_000)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        bounds = bounds_of(network, flows)
        took.append((time.perf_counter() - began) * 1e3)
        assert len(bounds) == RING_FLOWS
    return took


@click.command()
@click.option("--quick", is_flag=True, help="About a minute: fewer decisions at each size.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure how long decisions take, and how that depends on the number of bookings."""
    decisions = DECISIONS // 4 if quick else DECISIONS
    network = grid(random.Random(1))
    began = time.perf_counter()
    filling = FillingCalendar(network, random.Random(2))
    for source, destination in filling.pairs:
        candidate_paths(network, source, destination)
    paths_ms = (time.perf_counter() - began) * 1e3 / len(filling.pairs)
    taken: dict[int, list[float]] = {}
    for size in SIZES:
        while filling.count < size:
            filling.time_decision()
        gc.collect()
        taken[size] = [filling.time_decision(keep=False) for _ in range(decisions)]
    recheck = recheck_ms(random.Random(3), 10 if quick else 50)
    medians = {size: quantile(times, 0.5) for size, times in taken.items()}
    table = Table("bookings", "median ms", "p90 ms", "p99 ms", title=f"time per decision, {len(network.nodes)} nodes")
    for size, times in taken.items():
        table.add_row(f"{size:,}", *(f"{quantile(times, share):.2f}" for share in (0.5, 0.9, 0.99)))
    claims = {
        "median_ms_at_10000": at_most(medians[SIZES[-1]], "ms", 2.0),
        "growth_10_to_10000": at_most(medians[SIZES[-1]] / medians[SIZES[0]], "", 3.0),
        "recheck_500_ms": at_most(quantile(recheck, 0.5), "ms", 20.0),
        "first_paths_ms": Claim(paths_ms, "ms"),
        "refused": Claim(filling.refused, "decisions"),
    }
    samples = {"decisions_ms": {str(size): times for size, times in taken.items()}, "recheck_ms": recheck}
    publish("admission_scale", claims, samples, [table], out)


if __name__ == "__main__":
    main()
