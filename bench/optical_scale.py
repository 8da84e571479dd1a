"""Training traffic on a real optical map, decided by the controller's own core without sending a packet.

The map is SNDlib's germany50 at its real size, 50 sites and 88 fibres; on each, `CHANNELS` channels of 100 Gb/s on the
50 GHz grid are the trainers'. The cloud and the edges stand where the rule of topologies/placement.py puts them; when
every site has an edge the rule begins anew. Edges train in runs of `MEMBERS`, each run a model of the zoo with the
trainer's own plans: cuts, segment bytes and rates, a new plan every round after what the round before took. A run asks
for all its flows or none; refused, it asks for less, as the trainer does. Admission, grooming, spectrum, reach (GNPy)
and bounds are the controller's.

Whatever goes to the cloud crosses one of the fibres to its site. In `100` and `1000` the lines of all edges together
are the same, 2.5 Tb/s, and less than these fibres carry: an edge has 25 Gb/s of its own in the first, 2.5 Gb/s in the
second. In `1000_overload` each has 25 Gb/s: several times what the fibres carry, and what counts is how much of them is
used.

Beside it, on the same requests: shortest path without spectrum awareness. The path is the shortest by length, chosen
before spectrum is looked at, and there is no second; everything else is the same. Delays are compared over the runs
that both admit at the first asking.

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
from topologies.placement import PlacementOptions, map_document
from topologies.published import read_plant
from trainer.planning.plan import RoundPlan
from trainer.reservation.reserved_bandwidth import MAX_ATTEMPTS

PLANT = "sndlib/germany50"
CHANNELS, CHANNEL_GBPS = 8, 100.0
MEMBERS, ROUNDS = 10, 3



@dataclass(frozen=True)
class Scenario:
    """So many edges, each with such a line of its own."""

    edges: int
    line_gbps: float


DELAY_GROWS = 1.02
"""More traffic makes every bound longer: the delays may grow so much where more is admitted."""

SCENARIOS = {"100": Scenario(100, 25.0), "1000": Scenario(1000, 2.5), "1000_overload": Scenario(1000, 25.0)}

SHARE, SHRINK = 0.75, 0.7
"""Of its line that an edge wants at first (the trainer's default), and by how much less after a refusal."""
SEARCH_STEPS = 200

SWITCHES = Calibration(switch_min_us=1.0, switch_max_us=10.0, meter_tick_us=1.0, shaper_burst_us=1.0)
"""Switches of silicon in place of the emulation's."""

AWARE, UNAWARE = "spectrum aware", "shortest path"
BOTH = "transmission delay promised to runs that both admit, ms"
ADMITTED, RESERVED = "admitted at first asking, % of runs", "reserved in the end, % of the cloud's fibres"
CANDIDATES = {AWARE: paths.CANDIDATES, UNAWARE: 1}


def germany50(case: Scenario) -> Map:
    """The map with that case's edges, at its real rates."""
    plant = read_plant(PLANT)
    options = PlacementOptions(
        len(plant.sites) - 1, channels=CHANNELS, channel_rate_gbps=CHANNEL_GBPS, scale_mbps_per_gbps=1000
    )
    ruled = map_document(plant, options)
    homes = dict(link["ends"] for link in ruled["links"])
    is_sequential = [homes[f"edge{number + 1}"] for number in range(len(plant.sites) - 1)]
    nodes = [_node(facts) for facts in ruled["nodes"] if facts["kind"] in ("switch", "cloud")]
    links = [_link(facts) for facts in ruled["links"] if facts["ends"][0] in {node.name for node in nodes}]
    for number in range(case.edges):
        site = is_sequential[number % len(is_sequential)]
        nodes.append(MapNode(f"edge{number + 1}", "edge", (0.0, 0.0)))
        links.append(MapLink((f"edge{number + 1}", site), 3.0, 1, case.line_gbps))
    return Map(f"germany{case.edges}", "", 1000.0, 9000, tuple(nodes), tuple(links), None, plant.source, "fixed")


def _node(facts: Mapping[str, Any]) -> MapNode:
    x, y = facts["position_km"]
    return MapNode(facts["name"], facts["kind"], (x, y), label=facts.get("label"))


def _link(facts: Mapping[str, Any]) -> MapLink:
    """A fibre as it is; the cloud's own line carries what all fibres to its site carry, and is never the bottleneck."""
    first, second = facts["ends"]
    channels = 20 * facts["channels"] if first == "cloud" else facts["channels"]
    return MapLink((first, second), facts["length_km"], channels, facts["channel_rate_gbps"])


def candidates(count: int) -> AbstractContextManager[object]:
    """While this lasts so many paths are tried for a flow."""
    return patch("controller.admission.path_search.candidate_paths", partial(paths.candidate_paths, max_paths=count))


# What the controller makes of it --------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of all runs: at the first asking, after asking for less, in later rounds; what each was promised."""

    runs: int = 0
    at_first: set[int] = field(default_factory=set)
    in_the_end: int = 0
    modified: int = 0
    modifications: int = 0
    transmission_ms: dict[int, float] = field(default_factory=dict)
    latency_us: dict[int, float] = field(default_factory=dict)
    lightpaths: int = 0
    lit_share: float = 0.0
    asked_share: float = 0.0
    reserved_share: float = 0.0
    """Of what the fibres at the cloud's site can carry to it: asked for at first, and reserved in the end."""


class ControllerCore:
    """The controller's decisions and what they add up to."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.calendar, self.live = Calendar(), LiveReservations(network, SWITCHES)

    def reserve(self, run: SimulatedRun, plan: RoundPlan) -> Reservation | None:
        """Reserve or modify; None: refused, and everything is as before."""
        name, now_s = f"r-{run.number:08x}", 0.0
        before = self.live.get(name)
        version = 1 if before is None else before.version + 1
        request = Request(name, version, run.flows(plan), search_steps=SEARCH_STEPS)
        decision = decide(self.network, self.calendar, self.live, request, now_s, calibration=SWITCHES)
        if not isinstance(decision, Admitted):
            return None
        stands = Reservation(
            name, run.number, version, "cloud", State.ACTIVE, 60.0, now_s, inf, decision.placements
        )
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(stands)
        return stands


def transmission_ms(plan: RoundPlan, stands: Reservation) -> tuple[float, float]:
    """Promised: until the last segment of a micro-batch is there, sent at its rate and proven latency (ms, us)."""
    latency_us = {p.flow.name: p.accumulated_latency_us for p in stands.placements}
    worst_us = max(latency_us[f"{edge.edge}-up"] for edge in plan.edges)
    return plan.transmission_delay_s * 1e3 + worst_us / 1e3, worst_us


def uplink_bps(plan: RoundPlan) -> int:
    """What all edges of a plan send to the cloud."""
    return sum(edge.up_bps for edge in plan.edges)


def to_the_cloud_bps(network: Network) -> float:
    """What the fibres to the cloud's site can be reserved for in all: no way to the cloud leads round them."""
    site = network.links_from("cloud")[0].destination
    return sum(each.reservable_bps for each in network.links.values() if each.destination == site and each.slot_count)


def simulate(network: Network, case: Scenario, seed: int, rounds: int) -> Outcome:
    """All edges train, run after run in random order."""
    names = [f"edge{number + 1}" for number in range(case.edges)]
    homes = {name: network.links_from(name)[0].destination for name in names}
    random.Random(seed).shuffle(names)
    core, fates, going = ControllerCore(network), Outcome(), []
    site_bps = to_the_cloud_bps(network)
    for number in range(case.edges // MEMBERS):
        members = names[number * MEMBERS : (number + 1) * MEMBERS]
        chance = random.Random(f"{seed}, run {number}")  # its own: what it asks for is the same whatever others got
        run = SimulatedRun(number + 1, members, homes, case.line_gbps * 1e9, chance.choice(MODELS), chance)
        fates.runs += 1
        share = SHARE
        for attempt in range(MAX_ATTEMPTS):
            plan = run.next_plan(share)
            fates.asked_share += (attempt == 0) * uplink_bps(plan) / site_bps
            if core.reserve(run, plan) is not None:
                if attempt == 0:
                    fates.at_first.add(run.number)
                fates.in_the_end += 1
                run.train(plan)
                going.append((run, share))
                break
            share *= SHRINK
    for _ in range(rounds - 1):
        for run, share in going:
            plan = run.next_plan(share)
            fates.modifications += 1
            if core.reserve(run, plan) is not None:
                fates.modified += 1
                run.train(plan)
    _sum_up(core, going, fates)
    return fates


def _sum_up(core: ControllerCore, going: list[tuple[SimulatedRun, float]], fates: Outcome) -> None:
    for run, _ in going:
        stands = core.live.get(f"r-{run.number:08x}")
        assert stands is not None and run.plan is not None
        promised_ms, latency_us = transmission_ms(run.plan, core.live.with_current_bounds(stands))
        fates.transmission_ms[run.number] = promised_ms
        fates.latency_us[run.number] = latency_us
        fates.reserved_share += uplink_bps(run.plan) / to_the_cloud_bps(core.network)
    lit = core.calendar.lightpaths().values()
    fates.lightpaths = len(lit)
    slots = sum(link.slot_count for link in core.network.links.values())
    fates.lit_share = sum(each.width * len(each.links) for each in lit) / slots


# The figures ----------------------------------------------------------------------------------------------------------


Results = Mapping[str, Mapping[str, list[Outcome]]]
FIGURES: Mapping[str, Callable[[Outcome], float]] = {
    ADMITTED: lambda fates: 100 * len(fates.at_first) / fates.runs,
    "admitted after asking for less, % of runs": lambda fates: 100 * fates.in_the_end / fates.runs,
    "later rounds granted, %": lambda fates: 100 * fates.modified / max(1, fates.modifications),
    "transmission delay promised, ms": lambda fates: statistics.mean(fates.transmission_ms.values()),
    "latency bound, us": lambda fates: statistics.mean(fates.latency_us.values()),
    "asked for at first, % of the cloud's fibres": lambda fates: 100 * fates.asked_share,
    RESERVED: lambda fates: 100 * fates.reserved_share,
    "lightpaths": lambda fates: float(fates.lightpaths),
    "spectrum lit, %": lambda fates: 100 * fates.lit_share,
}


def paired_ms(ways: Mapping[str, list[Outcome]]) -> dict[str, list[float]]:
    """The mean transmission delay promised to the runs that both ways admitted at once, ms, for every seed."""
    both = [ours.at_first & theirs.at_first for ours, theirs in zip(ways[AWARE], ways[UNAWARE], strict=True)]
    return {
        way: [
            statistics.mean(each.transmission_ms[run] for run in runs)
            for each, runs in zip(fates, both, strict=True)
        ]
        for way, fates in ways.items()
    }


def plot(results: Results) -> Figure:
    """Admission and promised delay, with 95 % intervals over the seeds."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    shown = {name: {case: {way: [FIGURES[name](each) for each in fates] for way, fates in ways.items()}
                    for case, ways in results.items()} for name in (ADMITTED, RESERVED)}
    shown[BOTH] = {case: paired_ms(ways) for case, ways in results.items()}
    for axes, (name, values) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        for place, (way, colour) in enumerate(((AWARE, "#2f7f5f"), (UNAWARE, "#8d8d8d"))):
            intervals = [report.interval(values[case][way]) for case in results]
            where = [number + 0.38 * place for number in range(len(results))]
            means, halves = [[each[part] for each in intervals] for part in (0, 1)]
            axes.bar(where, means, 0.36, yerr=halves, color=colour, capsize=3, label=way)
        axes.set_xticks(
            [number + 0.19 for number in range(len(results))],
            [f"{SCENARIOS[case].edges:,} edges\nof {SCENARIOS[case].line_gbps:g} Gb/s" for case in results],
        )
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7)
    return figure


def claims_of(case: str, ways: Mapping[str, list[Outcome]]) -> dict[str, report.Claim]:
    """What we claim beside the shortest path: more admitted, more of the fibres used, delays hardly longer."""
    mean = {name: [statistics.mean(map(FIGURES[name], ways[way])) / 100 for way in (AWARE, UNAWARE)]
            for name in (ADMITTED, RESERVED)}
    ours_ms, theirs_ms = (statistics.mean(paired_ms(ways)[way]) for way in (AWARE, UNAWARE))
    return {
        f"admission_{case}": report.at_least(mean[ADMITTED][0], "", mean[ADMITTED][1]),
        f"reserved_{case}": report.at_least(mean[RESERVED][0], "", mean[RESERVED][1]),
        f"transmission_ms_{case}": report.at_most(ours_ms, "ms", DELAY_GROWS * theirs_ms),
    }


def result_table(case: str, ways: Mapping[str, list[Outcome]]) -> Table:
    """All figures of both ways, with 95 % intervals."""
    facts = SCENARIOS[case]
    table = Table("", *ways, title=f"{facts.edges:,} edges of {facts.line_gbps:g} Gb/s, {len(ways[AWARE])} seeds, 95 %")
    rows = {name: [[figure(each) for each in fates] for fates in ways.values()] for name, figure in FIGURES.items()}
    for name, columns in (rows | {BOTH: list(paired_ms(ways).values())}).items():
        intervals = [report.interval(values) for values in columns]
        table.add_row(name, *(f"{mean:.4g} ± {half:.2g}" for mean, half in intervals))
    return table


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="100 edges only, three seeds, two rounds; under a minute.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(quick: bool, out: Path | None) -> None:
    """Both ways on the same requests."""
    torch.set_num_threads(1)
    seeds, rounds = (3, 2) if quick else (5, ROUNDS)
    results: dict[str, dict[str, list[Outcome]]] = {}
    for name in list(SCENARIOS)[: 1 if quick else None]:
        plan = germany50(SCENARIOS[name])
        results[name] = {}
        for way, count in CANDIDATES.items():
            network = network_from_map(plan)  # its own, for paths are kept by network
            with candidates(count):
                results[name][way] = [simulate(network, SCENARIOS[name], seed, rounds) for seed in range(seeds)]
    claims = {claim: value for name, ways in results.items() for claim, value in claims_of(name, ways).items()}
    samples = {
        name: {way: {figure: [value(each) for each in fates] for figure, value in FIGURES.items()}
               | {BOTH: paired_ms(ways)[way]} for way, fates in ways.items()}
        for name, ways in results.items()
    }  # fmt: skip
    tables = [result_table(name, ways) for name, ways in results.items()]
    report.publish("optical_scale", claims, samples, tables, out, {"ways": plot(results)})


if __name__ == "__main__":
    main()
