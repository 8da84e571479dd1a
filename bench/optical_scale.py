"""Admission of training traffic on a real optical map, simulated with the controller's core and no packets.

The map is SNDlib's germany50 at its real size, 50 sites and 88 fibres; on each, `CHANNELS` channels of 100 Gb/s on the
50 GHz grid are available. The cloud and the edges are placed by the rule of topologies/placement; when every site
has an edge, the rule starts over. Edges train in runs of `MEMBERS`, each run a model of the zoo with the trainer's own
plans: cuts, segment bytes and rates, a new plan every round from the measurements of the round before. A run requests
all its flows or none; after a refusal it requests less, as the trainer does. Admission, grooming, spectrum, reach
(GNPy) and bounds are the controller's.

All traffic to the cloud crosses one of the fibres to its site. In `100` and `1000` the access lines of all edges
together have the same rate, 2.5 Tb/s, less than the capacity of these fibres: an edge has a line of 25 Gb/s in the
first, of 2.5 Gb/s in the second. In `1000_overload` each has 25 Gb/s, several times the capacity of the fibres; the
figure of interest is then the reserved share of the fibres.

Baseline, on the same requests: shortest path without spectrum awareness. The only candidate is the path of the least
length, chosen before spectrum is considered; everything else is the same. Delays are compared over the runs that both
admit at the first request.

    .venv/bin/python bench/optical_scale.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
from matplotlib.figure import Figure
from rich.table import Table

from harness import report
from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.calculus.network_bounds import Calibration
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Reservation, State
from controller.routing import candidates as paths
from harness.simulated_training import MODELS, SimulatedRun
from topologies.maps import Map, MapLink, MapNode
from topologies.placement.map_document import PlacementOptions, map_document
from topologies.plants.published import read_plant
from trainer.planning.plan import RoundPlan
from trainer.reservation.reserved_bandwidth import MAX_ATTEMPTS

PLANT = "sndlib/germany50"
CHANNELS, CHANNEL_GBPS = 8, 100.0
MEMBERS, ROUNDS = 10, 3


@dataclass(frozen=True)
class Scenario:
    """Number of edges, and the rate of each edge's access line."""

    edges: int
    line_gbps: float


MAX_DELAY_RATIO = 1.02
"""More admitted traffic makes every bound longer; delays may exceed the baseline's by this factor."""

SCENARIOS = {"100": Scenario(100, 25.0), "1000": Scenario(1000, 2.5), "1000_overload": Scenario(1000, 25.0)}

SHARE, SHRINK = 0.75, 0.7
"""Share of its line that an edge requests first (the trainer's default), and the factor after each refusal."""
SEARCH_STEPS = 200

SWITCHES = Calibration(switch_min_us=1.0, switch_max_us=10.0, meter_tick_us=1.0, shaper_burst_us=1.0)
"""Hardware switches instead of the emulation's software switches."""

AWARE, UNAWARE = "spectrum aware", "shortest path"
BOTH = "transmission delay promised to runs that both admit, ms"
ADMITTED, RESERVED = "admitted at first asking, % of runs", "reserved in the end, % of the cloud's fibres"
CANDIDATES = {AWARE: paths.CANDIDATES, UNAWARE: 1}


def germany50(scenario: Scenario) -> Map:
    """Return the map with the scenario's edges, at its real rates."""
    plant = read_plant(PLANT)
    options = PlacementOptions(
        len(plant.sites) - 1, channels=CHANNELS, channel_rate_gbps=CHANNEL_GBPS, scale_mbps_per_gbps=1000
    )
    document = map_document(plant, options)
    sites = dict(link["ends"] for link in document["links"])
    edge_sites = [sites[f"edge{number + 1}"] for number in range(len(plant.sites) - 1)]
    nodes = [_node(facts) for facts in document["nodes"] if facts["kind"] in ("switch", "cloud")]
    links = [_link(facts) for facts in document["links"] if facts["ends"][0] in {node.name for node in nodes}]
    for number in range(scenario.edges):
        site = edge_sites[number % len(edge_sites)]
        nodes.append(MapNode(f"edge{number + 1}", "edge", (0.0, 0.0)))
        links.append(MapLink((f"edge{number + 1}", site), 3.0, 1, scenario.line_gbps))
    return Map(f"germany{scenario.edges}", "", 1000.0, 9000, tuple(nodes), tuple(links), None, plant.source, "fixed")


def _node(facts: Mapping[str, Any]) -> MapNode:
    x, y = facts["position_km"]
    return MapNode(facts["name"], facts["kind"], (x, y), label=facts.get("label"))


def _link(facts: Mapping[str, Any]) -> MapLink:
    """Return a link of the map; the cloud's access line carries the sum of its site's fibres, so is no bottleneck."""
    first, second = facts["ends"]
    channels = 20 * facts["channels"] if first == "cloud" else facts["channels"]
    return MapLink((first, second), facts["length_km"], channels, facts["channel_rate_gbps"])


def candidates(count: int) -> AbstractContextManager[object]:
    """Limit the candidate paths per flow to `count` within the block."""
    return patch("controller.admission.path_search.candidate_paths", partial(paths.candidate_paths, max_paths=count))


# Simulation of the controller ----------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Results of all runs: at the first request, after reduced requests, in later rounds; the bounds of each."""

    runs: int = 0
    at_first: set[int] = field(default_factory=set)
    in_the_end: int = 0
    modified: int = 0
    modifications: int = 0
    transmission_ms: dict[int, float] = field(default_factory=dict)
    latency_us: dict[int, float] = field(default_factory=dict)
    lightpaths: int = 0
    lit_share: float = 0.0
    requested_share: float = 0.0
    reserved_share: float = 0.0
    """Shares of the capacity of the fibres to the cloud's site: requested first, and reserved in the end."""


class ControllerCore:
    """The controller's admission control with its calendar and live reservations."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.calendar, self.live = Calendar(), LiveReservations(network, SWITCHES)

    def reserve(self, run: SimulatedRun, plan: RoundPlan) -> Reservation | None:
        """Reserve or modify; None if refused, without a change."""
        name, now_s = f"r-{run.number:08x}", 0.0
        before = self.live.get(name)
        version = 1 if before is None else before.version + 1
        request = Request(name, version, run.flows(plan), search_steps=SEARCH_STEPS)
        decision = decide(self.network, self.calendar, self.live, request, now_s, calibration=SWITCHES)
        if not isinstance(decision, Admitted):
            return None
        reservation = Reservation(
            name, run.number, version, "cloud", State.ACTIVE, 60.0, now_s, inf, decision.placements
        )
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(reservation)
        return reservation


def transmission_ms(plan: RoundPlan, reservation: Reservation) -> tuple[float, float]:
    """Return the bound of a micro-batch's transmission at the reserved rates (ms), and the worst latency bound (us)."""
    latency_us = {p.flow.name: p.accumulated_latency_us for p in reservation.placements}
    worst_us = max(latency_us[f"{edge.edge}-up"] for edge in plan.edges)
    return plan.transmission_delay_s * 1e3 + worst_us / 1e3, worst_us


def uplink_bps(plan: RoundPlan) -> int:
    """Total rate of a plan's uplinks."""
    return sum(edge.up_bps for edge in plan.edges)


def to_the_cloud_bps(network: Network) -> float:
    """Total reservable rate of the fibres to the cloud's site, which all paths to the cloud cross."""
    site = network.links_from("cloud")[0].destination
    return sum(link.reservable_bps for link in network.links.values() if link.destination == site and link.slot_count)


def simulate(network: Network, scenario: Scenario, seed: int, rounds: int) -> Outcome:
    """Simulate the runs of all edges, in random order."""
    names = [f"edge{number + 1}" for number in range(scenario.edges)]
    sites = {name: network.links_from(name)[0].destination for name in names}
    random.Random(seed).shuffle(names)
    core, outcome, admitted = ControllerCore(network), Outcome(), []
    site_bps = to_the_cloud_bps(network)
    for number in range(scenario.edges // MEMBERS):
        members = names[number * MEMBERS : (number + 1) * MEMBERS]
        rng = random.Random(f"{seed}, run {number}")  # of its own: requests do not depend on other runs
        run = SimulatedRun(number + 1, members, sites, scenario.line_gbps * 1e9, rng.choice(MODELS), rng)
        outcome.runs += 1
        share = SHARE
        for attempt in range(MAX_ATTEMPTS):
            plan = run.next_plan(share)
            outcome.requested_share += (attempt == 0) * uplink_bps(plan) / site_bps
            if core.reserve(run, plan) is not None:
                if attempt == 0:
                    outcome.at_first.add(run.number)
                outcome.in_the_end += 1
                run.train(plan)
                admitted.append((run, share))
                break
            share *= SHRINK
    for _ in range(rounds - 1):
        for run, share in admitted:
            plan = run.next_plan(share)
            outcome.modifications += 1
            if core.reserve(run, plan) is not None:
                outcome.modified += 1
                run.train(plan)
    _sum_up(core, admitted, outcome)
    return outcome


def _sum_up(core: ControllerCore, admitted: list[tuple[SimulatedRun, float]], outcome: Outcome) -> None:
    for run, _ in admitted:
        reservation = core.live.get(f"r-{run.number:08x}")
        assert reservation is not None and run.plan is not None
        promised_ms, latency_us = transmission_ms(run.plan, core.live.with_current_bounds(reservation))
        outcome.transmission_ms[run.number] = promised_ms
        outcome.latency_us[run.number] = latency_us
        outcome.reserved_share += uplink_bps(run.plan) / to_the_cloud_bps(core.network)
    lit = core.calendar.lightpaths().values()
    outcome.lightpaths = len(lit)
    slots = sum(link.slot_count for link in core.network.links.values())
    outcome.lit_share = sum(lightpath.width * len(lightpath.links) for lightpath in lit) / slots


# Figures --------------------------------------------------------------------------------------------------------------


Results = Mapping[str, Mapping[str, list[Outcome]]]
FIGURES: Mapping[str, Callable[[Outcome], float]] = {
    ADMITTED: lambda outcome: 100 * len(outcome.at_first) / outcome.runs,
    "admitted after asking for less, % of runs": lambda outcome: 100 * outcome.in_the_end / outcome.runs,
    "later rounds granted, %": lambda outcome: 100 * outcome.modified / max(1, outcome.modifications),
    "transmission delay promised, ms": lambda outcome: statistics.mean(outcome.transmission_ms.values()),
    "latency bound, us": lambda outcome: statistics.mean(outcome.latency_us.values()),
    "asked for at first, % of the cloud's fibres": lambda outcome: 100 * outcome.requested_share,
    RESERVED: lambda outcome: 100 * outcome.reserved_share,
    "lightpaths": lambda outcome: float(outcome.lightpaths),
    "spectrum lit, %": lambda outcome: 100 * outcome.lit_share,
}


def paired_ms(by_algorithm: Mapping[str, list[Outcome]]) -> dict[str, list[float]]:
    """Mean transmission delay bound (ms) of the runs that both algorithms admitted at the first request, by seed."""
    both = [
        ours.at_first & theirs.at_first for ours, theirs in zip(by_algorithm[AWARE], by_algorithm[UNAWARE], strict=True)
    ]
    return {
        algorithm: [
            statistics.mean(outcome.transmission_ms[run] for run in runs)
            for outcome, runs in zip(outcomes, both, strict=True)
        ]
        for algorithm, outcomes in by_algorithm.items()
    }


def plot(results: Results) -> Figure:
    """Plot admission and delay bounds, with 95 % intervals over the seeds."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    shown = {
        name: {
            scenario: {
                algorithm: [FIGURES[name](outcome) for outcome in outcomes]
                for algorithm, outcomes in by_algorithm.items()
            }
            for scenario, by_algorithm in results.items()
        }
        for name in (ADMITTED, RESERVED)
    }
    shown[BOTH] = {scenario: paired_ms(by_algorithm) for scenario, by_algorithm in results.items()}
    for axes, (name, values) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        for place, (algorithm, colour) in enumerate(((AWARE, "#2f7f5f"), (UNAWARE, "#8d8d8d"))):
            intervals = [report.interval(values[scenario][algorithm]) for scenario in results]
            where = [number + 0.38 * place for number in range(len(results))]
            means, halves = [[interval[part] for interval in intervals] for part in (0, 1)]
            axes.bar(where, means, 0.36, yerr=halves, color=colour, capsize=3, label=algorithm)
        axes.set_xticks(
            [number + 0.19 for number in range(len(results))],
            [f"{SCENARIOS[scenario].edges:,} edges\nof {SCENARIOS[scenario].line_gbps:g} Gb/s" for scenario in results],
        )
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7)
    return figure


def claims_of(scenario: str, by_algorithm: Mapping[str, list[Outcome]]) -> dict[str, report.Claim]:
    """Claims against the shortest path: more admitted, more of the fibres reserved, delays up to 2 % longer."""
    mean = {name: [statistics.mean(map(FIGURES[name], by_algorithm[algorithm])) / 100 for algorithm in (AWARE, UNAWARE)]
            for name in (ADMITTED, RESERVED)}
    ours_ms, theirs_ms = (statistics.mean(paired_ms(by_algorithm)[algorithm]) for algorithm in (AWARE, UNAWARE))
    return {
        f"admission_{scenario}": report.at_least(mean[ADMITTED][0], "", mean[ADMITTED][1]),
        f"reserved_{scenario}": report.at_least(mean[RESERVED][0], "", mean[RESERVED][1]),
        f"transmission_ms_{scenario}": report.at_most(ours_ms, "ms", MAX_DELAY_RATIO * theirs_ms),
    }


def result_table(scenario: str, by_algorithm: Mapping[str, list[Outcome]]) -> Table:
    """Return a table of all figures of both algorithms, with 95 % intervals."""
    facts = SCENARIOS[scenario]
    table = Table(
        "",
        *by_algorithm,
        title=f"{facts.edges:,} edges of {facts.line_gbps:g} Gb/s, {len(by_algorithm[AWARE])} seeds, 95 %",
    )
    rows = {
        name: [[figure(outcome) for outcome in outcomes] for outcomes in by_algorithm.values()]
        for name, figure in FIGURES.items()
    }
    for name, columns in (rows | {BOTH: list(paired_ms(by_algorithm).values())}).items():
        intervals = [report.interval(values) for values in columns]
        table.add_row(name, *(f"{mean:.4g} ± {half:.2g}" for mean, half in intervals))
    return table


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="100 edges only, three seeds, two rounds; under a minute.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(quick: bool, out: Path | None) -> None:
    """Run both algorithms on the same requests."""
    torch.set_num_threads(1)
    seeds, rounds = (3, 2) if quick else (5, ROUNDS)
    results: dict[str, dict[str, list[Outcome]]] = {}
    for name in list(SCENARIOS)[: 1 if quick else None]:
        plan = germany50(SCENARIOS[name])
        results[name] = {}
        for algorithm, count in CANDIDATES.items():
            network = network_from_map(plan)  # not shared: candidate paths are cached by network
            with candidates(count):
                results[name][algorithm] = [simulate(network, SCENARIOS[name], seed, rounds) for seed in range(seeds)]
    claims = {
        claim: value for name, by_algorithm in results.items() for claim, value in claims_of(name, by_algorithm).items()
    }
    samples = {
        name: {algorithm: {figure: [value(outcome) for outcome in outcomes] for figure, value in FIGURES.items()}
               | {BOTH: paired_ms(by_algorithm)[algorithm]} for algorithm, outcomes in by_algorithm.items()}
        for name, by_algorithm in results.items()
    }  # fmt: skip
    tables = [result_table(name, by_algorithm) for name, by_algorithm in results.items()]
    report.publish("optical_scale", claims, samples, tables, out, {"ways": plot(results)})


if __name__ == "__main__":
    main()
