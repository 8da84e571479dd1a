"""Training traffic on a real optical map, decided by the controller's own core without sending a packet.

The map is SNDlib's germany50 at its real size, 50 sites and 88 fibres; on each, `CHANNELS` channels of 100 Gb/s on the
50 GHz grid are the trainers'. The cloud and the edges stand where the rule of topologies/placement.py puts them; when
every site has an edge the rule begins anew. Edges train in runs of `MEMBERS`, each run a model of the zoo with the
trainer's own plans: cuts, segment bytes and rates, a new plan every round after what the round before took. A run asks
for all its flows or none; refused, it asks for less, as the trainer does. Admission, grooming, spectrum, reach (GNPy)
and bounds are the controller's.

Beside it, on the same requests: shortest path without spectrum awareness. The path is the shortest by length, chosen
before spectrum is looked at, and there is no second; everything else is the same.

    .venv/bin/python bench/optical_scale.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import click
import report
import torch
from matplotlib.figure import Figure
from rich.table import Table
from simulated_run import ACCESS_GBPS, MODELS, Run

from controller import paths
from controller.admission import Admitted, Request, decide
from controller.bookings import Bookings
from controller.bounds import Calibration
from controller.network import Network, network_from_map
from controller.reservation import Reservation, State
from controller.standing import Standing
from topologies.maps import Map, MapLink, MapNode
from topologies.placement import Wishes, map_facts
from topologies.plants import read_plant
from trainer.plans import RoundPlan
from trainer.reserved_road import TRIES

PLANT = "sndlib/germany50"
CHANNELS, CHANNEL_GBPS = 8, 100.0
EDGES = (100, 1000)
MEMBERS, ROUNDS = 10, 3

SHARE, SHRINK = 0.75, 0.7
"""Of its line that an edge wants at first (the trainer's default), and by how much less after a refusal."""
SEARCH_STEPS = 200

SWITCHES = Calibration(switch_min_us=1.0, switch_max_us=10.0, meter_tick_us=1.0, shaper_burst_us=1.0)
"""Switches of silicon in place of the emulation's."""

AWARE, UNAWARE = "spectrum aware", "shortest path"
CANDIDATES = {AWARE: paths.CANDIDATES, UNAWARE: 1}


def germany(edges: int) -> Map:
    """The map with so many edges, at its real rates."""
    plant = read_plant(PLANT)
    wishes = Wishes(len(plant.sites) - 1, channels=CHANNELS, channel_rate_gbps=CHANNEL_GBPS, scale_mbps_per_gbps=1000)
    ruled = map_facts(plant, wishes)
    homes = dict(link["ends"] for link in ruled["links"])
    in_turn = [homes[f"edge{number + 1}"] for number in range(len(plant.sites) - 1)]
    nodes = [_node(facts) for facts in ruled["nodes"] if facts["kind"] in ("switch", "cloud")]
    links = [_link(facts) for facts in ruled["links"] if facts["ends"][0] in {node.name for node in nodes}]
    for number in range(edges):
        site = in_turn[number % len(in_turn)]
        nodes.append(MapNode(f"edge{number + 1}", "edge", (0.0, 0.0)))
        links.append(MapLink((f"edge{number + 1}", site), 3.0, 1, ACCESS_GBPS))
    return Map(f"germany{edges}", "", 1000.0, 9000, tuple(nodes), tuple(links), None, plant.source, "fixed")


def _node(facts: Mapping[str, Any]) -> MapNode:
    x, y = facts["position_km"]
    return MapNode(facts["name"], facts["kind"], (x, y), label=facts.get("label"))


def _link(facts: Mapping[str, Any]) -> MapLink:
    """A fibre as it is; the cloud's own line carries what all fibres to its site carry, and is never the bottleneck."""
    first, second = facts["ends"]
    channels = 20 * facts["channels"] if first == "cloud" else facts["channels"]
    return MapLink((first, second), facts["length_km"], channels, facts["channel_rate_gbps"])


@contextmanager
def candidates(count: int) -> Iterator[None]:
    """While this lasts so many paths are tried for a flow."""
    before, paths.CANDIDATES = paths.CANDIDATES, count
    try:
        yield
    finally:
        paths.CANDIDATES = before


# What the controller makes of it --------------------------------------------------------------------------------------


@dataclass
class Fates:
    """What became of all runs: at the first asking, after asking for less, in later rounds; what was promised."""

    runs: int = 0
    at_first: int = 0
    in_the_end: int = 0
    modified: int = 0
    modifications: int = 0
    transmission_ms: list[float] = field(default_factory=list)
    latency_us: list[float] = field(default_factory=list)
    lightpaths: int = 0
    lit_share: float = 0.0


class Core:
    """The controller's decisions and what they add up to."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.bookings, self.standing = Bookings(), Standing(network, SWITCHES)

    def ask(self, run: Run, plan: RoundPlan) -> Reservation | None:
        """Reserve or modify; None: refused, and everything is as before."""
        name, now_s = f"r-{run.number:08x}", 0.0
        before = self.standing.get(name)
        version = 1 if before is None else before.version + 1
        request = Request(name, version, run.flows(plan), search_steps=SEARCH_STEPS)
        decision = decide(self.network, self.bookings, self.standing, request, now_s, calibration=SWITCHES)
        if not isinstance(decision, Admitted):
            return None
        stands = Reservation(
            name, run.number, version, "cloud", State.ACTIVE, 60.0, now_s, inf, decision.placements
        )
        self.bookings, self.standing = decision.bookings, decision.after.having(stands)
        return stands


def transmission_ms(plan: RoundPlan, stands: Reservation) -> tuple[float, float]:
    """Promised: until the last segment of a micro-batch is there, sent at its rate and proven latency (ms, us)."""
    latency_us = {p.flow.name: p.accumulated_latency_us for p in stands.placements}
    worst_us = max(latency_us[f"{edge.edge}-up"] for edge in plan.edges)
    return plan.transmission_delay_s * 1e3 + worst_us / 1e3, worst_us


def simulate(network: Network, edges: int, seed: int, rounds: int) -> Fates:
    """All edges train, run after run in random order."""
    chance = random.Random(seed)
    names = [f"edge{number + 1}" for number in range(edges)]
    homes = {name: network.links_from(name)[0].destination for name in names}
    chance.shuffle(names)
    core, fates, going = Core(network), Fates(), []
    for number in range(edges // MEMBERS):
        members = names[number * MEMBERS : (number + 1) * MEMBERS]
        run = Run(number + 1, members, homes, chance.choice(MODELS), chance)
        fates.runs += 1
        share = SHARE
        for attempt in range(TRIES):
            plan = run.draft(share)
            stands = core.ask(run, plan)
            if stands is not None:
                fates.at_first += attempt == 0
                fates.in_the_end += 1
                run.train(plan)
                going.append((run, share))
                break
            share *= SHRINK
    for _ in range(rounds - 1):
        for run, share in going:
            plan = run.draft(share)
            fates.modifications += 1
            if core.ask(run, plan) is not None:
                fates.modified += 1
                run.train(plan)
    _sum_up(core, going, fates)
    return fates


def _sum_up(core: Core, going: list[tuple[Run, float]], fates: Fates) -> None:
    for run, _ in going:
        stands = core.standing.get(f"r-{run.number:08x}")
        assert stands is not None and run.plan is not None
        promised_ms, latency_us = transmission_ms(run.plan, core.standing.told_anew(stands))
        fates.transmission_ms.append(promised_ms)
        fates.latency_us.append(latency_us)
    lit = core.bookings.lightpaths().values()
    fates.lightpaths = len(lit)
    slots = sum(link.slots for link in core.network.links.values())
    fates.lit_share = sum(each.width * len(each.links) for each in lit) / slots


# The figures ----------------------------------------------------------------------------------------------------------


Results = Mapping[int, Mapping[str, list[Fates]]]
FIGURES: Mapping[str, Callable[[Fates], float]] = {
    "admitted at first asking, % of runs": lambda fates: 100 * fates.at_first / fates.runs,
    "admitted after asking for less, % of runs": lambda fates: 100 * fates.in_the_end / fates.runs,
    "later rounds granted, %": lambda fates: 100 * fates.modified / max(1, fates.modifications),
    "transmission delay promised, ms": lambda fates: statistics.mean(fates.transmission_ms),
    "latency bound, us": lambda fates: statistics.mean(fates.latency_us),
    "lightpaths": lambda fates: float(fates.lightpaths),
    "spectrum lit, %": lambda fates: 100 * fates.lit_share,
}


def drawn(results: Results) -> Figure:
    """Admission and promised delay, with 95 % intervals over the seeds."""
    shown = [name for name in FIGURES if "admitted" in name or "promised" in name]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for place, (way, colour) in enumerate(((AWARE, "#2f7f5f"), (UNAWARE, "#8d8d8d"))):
            intervals = [report.interval([FIGURES[name](each) for each in results[edges][way]]) for edges in results]
            where = [number + 0.38 * place for number in range(len(results))]
            means, halves = [[each[part] for each in intervals] for part in (0, 1)]
            axes.bar(where, means, 0.36, yerr=halves, color=colour, capsize=3, label=way)
        axes.set_xticks([number + 0.19 for number in range(len(results))], [f"{edges:,} edges" for edges in results])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7)
    return figure


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="100 edges only, two seeds, one round; about two minutes.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(quick: bool, out: Path | None) -> None:
    """Both ways on the same requests."""
    torch.set_num_threads(1)
    seeds, rounds = (2, 1) if quick else (5, ROUNDS)
    results: dict[int, dict[str, list[Fates]]] = {}
    for edges in EDGES[:1] if quick else EDGES:
        plan = germany(edges)
        results[edges] = {}
        for way, count in CANDIDATES.items():
            network = network_from_map(plan)  # its own, for paths are kept by network
            with candidates(count):
                results[edges][way] = [simulate(network, edges, seed, rounds) for seed in range(seeds)]
    claims, samples, tables = {}, {}, []
    for edges, ways in results.items():
        table = Table(f"{edges:,} edges", *ways, title=f"{seeds} seeds, 95 %")
        for name, figure in FIGURES.items():
            intervals = [report.interval([figure(each) for each in fates]) for fates in ways.values()]
            table.add_row(name, *(f"{mean:.4g} ± {half:.2g}" for mean, half in intervals))
        tables.append(table)
        ours, theirs = ({name: statistics.mean(map(figure, ways[way])) for name, figure in FIGURES.items()}
                        for way in (AWARE, UNAWARE))  # fmt: skip
        admitted, promised = "admitted at first asking, % of runs", "transmission delay promised, ms"
        claims[f"admission_{edges}"] = report.at_least(ours[admitted] / 100, "", theirs[admitted] / 100)
        claims[f"transmission_ms_{edges}"] = report.at_most(ours[promised], "ms", theirs[promised])
        samples[str(edges)] = {
            way: {name: [figure(each) for each in fates] for name, figure in FIGURES.items()}
            for way, fates in ways.items()
        }
    report.publish("optical_scale", claims, samples, tables, out, {"ways": drawn(results)})


if __name__ == "__main__":
    main()
