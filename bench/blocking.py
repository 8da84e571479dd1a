"""How many lightpath requests does the 14-node NSFNET turn away, and how fast are they decided?

Requests arrive at random (Poisson), ask for 25-100 Gb/s between two random nodes and stay for a while; one that finds
no route with enough contiguous free slots is blocked. First fit over the k shortest routes, the usual yardstick, runs
beside our order in the same process and on the same requests. The recipe is that of the DeepRMSA paper (Chen et al.,
Journal of Lightwave Technology 37, 2019).

    .venv/bin/python bench/blocking.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import heapq
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import report
from rich.table import Table

from controller.spectrum import BY_COST, TUNED, Assignment, Order, Routes, Spectrum, assign, block_starts

NSFNET_KM = {
    (1, 2): 1050, (1, 3): 1500, (1, 8): 2400, (2, 3): 600, (2, 4): 750, (3, 6): 1800, (4, 5): 600, (4, 11): 1950,
    (5, 6): 1200, (5, 7): 600, (6, 10): 1050, (6, 14): 1800, (7, 8): 750, (7, 10): 1350, (8, 9): 750, (9, 10): 750,
    (9, 12): 300, (9, 13): 300, (11, 12): 600, (11, 13): 750, (12, 14): 300, (13, 14): 150,
}  # fmt: skip
"""Fibre lengths in km. Source: the script for K-SP-FF on NSFNET published with DeepRMSA."""
SPANS = {(str(a), str(b)): float(km) for (a, b), km in NSFNET_KM.items()}
NODES = [str(node) for node in range(1, 15)]

LOADS = {"l12_m14": (12.0, 14.0), "l10_m25": (10.0, 25.0)}
"""Arrival rate and mean holding time."""
REFERENCE = {"l12_m14": 0.0002, "l10_m25": 0.0257}
"""The best of K shortest path first fit (k=50 by km)."""
WARM_UP, COUNTED = 3000, 10_000
STUDENT_T = {5: 2.776, 10: 2.262}
"""Two-sided 95 %, by number of seeds."""


@dataclass(frozen=True, slots=True)
class Request:
    """A lightpath that is wanted from `arrives` to `leaves`."""

    arrives: float
    leaves: float
    source: str
    destination: str
    rate_gbps: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed: the share of counted requests that was blocked, and how long the decisions took."""

    blocking: float
    seconds: float


Decide = Callable[[Spectrum, Routes, Request], Assignment | None]


def requests(arrival_rate: float, mean_holding: float, seed: int) -> Iterator[Request]:
    """The requests of one seed."""
    chance, now = random.Random(seed), 0.0
    for _ in range(WARM_UP + COUNTED):
        now += chance.expovariate(arrival_rate)
        source, destination = chance.sample(NODES, 2)
        rate_gbps = chance.randint(25, 100)
        holding = 0.0
        while not 0 < holding < 2 * mean_holding:
            holding = chance.expovariate(1 / mean_holding)
        yield Request(now, now + holding, source, destination, rate_gbps)


def simulate(routes: Routes, decide: Decide, load: tuple[float, float], seed: int) -> Outcome:
    """Decide every request of one seed."""
    wanted = list(requests(*load, seed))
    spectrum, blocked = Spectrum(routes), 0
    leaving: list[tuple[float, int, Assignment]] = []
    began = time.perf_counter()
    for number, request in enumerate(wanted):
        while leaving and leaving[0][0] <= request.arrives:
            spectrum.give(heapq.heappop(leaving)[2])
        found = decide(spectrum, routes, request)
        if found is not None:
            spectrum.take(found)
            heapq.heappush(leaving, (request.leaves, number, found))
        elif number >= WARM_UP:
            blocked += 1
    return Outcome(blocked / COUNTED, time.perf_counter() - began)


def by(order: Order) -> Decide:
    """Our own decision in that order."""
    return lambda spectrum, routes, request: assign(
        spectrum, routes, request.source, request.destination, request.rate_gbps, order
    )


def first_fit(spectrum: Spectrum, routes: Routes, request: Request) -> Assignment | None:
    """K shortest path first fit: the first route that has room, and its lowest block."""
    for route in routes.between(request.source, request.destination):
        width = spectrum.grid.slots_for(request.rate_gbps, route.modulation.bits_per_symbol)
        common = spectrum.grid.all_free
        for link in route.links:
            common &= spectrum.free[link]
        starts = block_starts(common, width)
        if starts:
            return Assignment(route, (starts & -starts) * ((1 << width) - 1))
    return None


def interval(outcomes: list[Outcome]) -> tuple[float, float]:
    """Mean blocking, and half the width of its 95 % interval over the seeds."""
    shares = [outcome.blocking for outcome in outcomes]
    return statistics.mean(shares), STUDENT_T[len(shares)] * statistics.stdev(shares) / len(shares) ** 0.5


def per_second(outcomes: list[Outcome]) -> float:
    """Decisions a second, releases included."""
    return len(outcomes) * (WARM_UP + COUNTED) / sum(outcome.seconds for outcome in outcomes)


def contenders() -> dict[str, tuple[Routes, Decide]]:
    """Who runs: the yardsticks, then ours."""
    km5, hops5, km50 = Routes(SPANS, 5), Routes(SPANS, 5, by="hops"), Routes(SPANS, 50)
    return {
        "first fit, k=5 by km": (km5, first_fit),
        "first fit, k=5 by hops": (hops5, first_fit),
        "first fit, k=50 by km": (km50, first_fit),
        "slots x links, k=50": (km50, by(BY_COST)),
        "slots x links, place and load, k=50": (km50, by(TUNED)),
    }


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Five seeds instead of ten.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Run all contenders on the same requests."""
    seeds = 5 if quick else 10
    claims, samples = {}, {}
    table = Table("decision", *(f"blocking {load}" for load in LOADS), "requests/s", title=f"{seeds} seeds, 95 %")
    ours: list[Outcome] = []
    for name, (routes, decide) in contenders().items():
        for source in NODES:  # the routes are found before the clock starts
            for destination in NODES:
                routes.between(source, destination)
        results = {
            load: [simulate(routes, decide, LOADS[load], seed) for seed in range(seeds)] for load in LOADS
        }
        samples[name] = {load: [outcome.blocking for outcome in outcomes] for load, outcomes in results.items()}
        ours = [outcome for outcomes in results.values() for outcome in outcomes]
        cells = [f"{mean:.5f} ± {half:.5f}" for mean, half in map(interval, results.values())]
        table.add_row(name, *cells, f"{per_second(ours):,.0f}")
        if name.startswith("slots x links, place"):
            for load, outcomes in results.items():
                claims[f"blocking_{load}"] = report.at_most(interval(outcomes)[0], "", REFERENCE[load])
    claims["requests_per_s"] = report.at_least(per_second(ours), "1/s", 100_000)
    report.publish("blocking", claims, samples, [table], out)


if __name__ == "__main__":
    main()
