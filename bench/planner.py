"""Optimality of the planner's plans, and planning time.

Random small instances are planned and also solved by exhaustive search over all combinations of cuts and codecs, with
independent code. Then a round of a thousand edges behind a tree of links with fifty cuts each, compared with the
planner's lower bound.

    .venv/bin/python bench/planner.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from harness import report
from machine.quantile import quantile
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.planner import plan_round

INSTANCES = 1000
EDGES, CUTS = 1000, 50
SAME_STEP = 1e-6
"""Relative tolerance for equal step times."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Instance:
    """A round to plan."""

    forecasts: list[EdgeForecast]
    offer: Offer
    micros: int


def model(random: np.random.Generator, layers: int) -> tuple[Vector, Vector, Vector]:
    """Forward and backward seconds of every layer on the reference processor, and the bits of every segment."""
    forward = random.lognormal(-6, 1, layers)
    backward = forward * random.uniform(1, 3, layers)
    bits = 3e6 * np.exp(np.cumsum(random.normal(-3 / layers, 0.4, layers + 1)))
    return forward, backward, bits


def forecast(
    random: np.random.Generator, name: str, costs: tuple[Vector, Vector, Vector], slowness: float, codecs: bool
) -> EdgeForecast:
    """Forecast of an edge that is `slowness` times slower than the reference processor."""
    forward, backward, bits = costs
    options = []
    for cut in range(len(forward)):
        rest = float(forward[cut:].sum() + backward[cut:].sum())
        options.append(Option(cut, "fp32", float(slowness * forward[:cut].sum()),
                              float(slowness * backward[:cut].sum()), rest, float(bits[cut]), float(bits[cut])))
    if codecs:
        options += [Option(o.cut, "bf16", o.forward_s, o.backward_s, o.cloud_s, o.up_bits / 2, o.down_bits / 2)
                    for o in options]
    return EdgeForecast(name, tuple(options), (0.0,) * len(bits), float(random.uniform(0, 0.1)))


def small(random: np.random.Generator) -> Instance:
    """Up to four edges with up to six cuts, one or two shared links."""
    names = [f"e{number}" for number in range(random.integers(1, 5))]
    layers = int(random.integers(2, 7 if len(names) < 4 else 5))
    costs = model(random, layers)
    forecasts = [forecast(random, name, costs, float(random.uniform(1, 10)), random.random() < 0.3 and len(names) < 4)
                 for name in names]
    usable = {f"{name}-access": float(random.uniform(10e6, 200e6)) for name in names}
    usable |= {"a": float(random.uniform(20e6, 300e6)), "b": float(random.uniform(20e6, 300e6))}
    paths = {name: (f"{name}-access", *(link for link in ("a", "b") if random.random() < 0.7)) for name in names}
    return Instance(forecasts, Offer(paths, paths, usable, floor_bps=1e6), int(random.integers(1, 17)))


def large(random: np.random.Generator) -> Instance:
    """A thousand edges on fifty access switches on five trunks, which share the link to the cloud."""
    costs = model(random, CUTS)
    forecasts, paths = [], {}
    usable = {"cloud": 40e9} | {f"trunk{number}": 10e9 for number in range(5)}
    usable |= {f"access{number}": 2e9 for number in range(50)}
    for number in range(EDGES):
        name = f"e{number}"
        usable[name] = float(random.uniform(20e6, 1e9))
        paths[name] = (name, f"access{number % 50}", f"trunk{number % 5}", "cloud")
        edge = forecast(random, name, costs, float(random.lognormal(1.5, 0.5)), codecs=False)
        options = tuple(Option(o.cut, o.codec, o.forward_s, o.backward_s, o.cloud_s / 200, o.up_bits, o.down_bits)
                        for o in edge.options)  # a cloud of many processors
        forecasts.append(EdgeForecast(name, options, edge.state_bits, edge.noise_share))
    return Instance(forecasts, Offer(paths, paths, usable, floor_bps=1e5), 8)


def exhaustive_step_s(instance: Instance) -> float:
    """Return the shortest step time over all combinations of options, by exhaustive search."""
    forecasts, micros = instance.forecasts, instance.micros
    choices = np.array(list(itertools.product(*(range(len(f.options)) for f in forecasts))))

    def column(name: str, number: int) -> Vector:
        values = np.array([getattr(option, name) for option in forecasts[number].options], dtype=np.float64)
        chosen: Vector = values[choices[:, number]]
        return chosen

    edges = range(len(forecasts))
    forward = np.max([forecasts[e].margin * column("forward_s", e) for e in edges], axis=0)
    backward = np.max([column("backward_s", e) for e in edges], axis=0)
    busy = np.max([column("forward_s", e) + column("backward_s", e) for e in edges], axis=0)
    cloud = np.sum([column("cloud_s", e) for e in edges], axis=0)
    up, down = (shared_s(instance, [column(name, e) for e in edges]) for name in ("up_bits", "down_bits"))
    stages = np.array([forward, up, cloud, down, backward])
    return float(np.maximum(micros * busy, stages.sum(axis=0) + (micros - 1) * stages.max(axis=0)).min())


def shared_s(instance: Instance, bits: Sequence[Vector]) -> Vector:
    """The shortest common time of the transfers, by bisection, for all combinations at once."""
    offer = instance.offer
    low, high = np.full(len(bits[0]), 1e-9), np.full(len(bits[0]), 1e3)
    for _ in range(80):
        middle = np.sqrt(low * high)
        fits = np.ones(len(middle), dtype=bool)
        for link, usable_bps in offer.usable_bps.items():
            users = [e for e, edge in enumerate(instance.forecasts) if link in offer.up_links[edge.edge]]
            load = sum((np.maximum(bits[e] / middle, offer.floor_bps) for e in users), np.zeros(len(middle)))
            fits &= load <= usable_bps * (1 + 1e-12)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return high


@click.command()
@click.option("--quick", is_flag=True, help="Fewer timings of the large instance; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Compare plans with exhaustive search; time the planning of a thousand edges."""
    random = np.random.default_rng(1)
    excess, seconds_small = [], []
    for _ in range(INSTANCES):
        instance = small(random)
        began = time.perf_counter()
        plan = plan_round(instance.forecasts, instance.offer, instance.micros)
        seconds_small.append(time.perf_counter() - began)
        excess.append(plan.step_s / exhaustive_step_s(instance) - 1)
    seconds, gaps = [], []
    for _ in range(3 if quick else 10):
        instance = large(random)
        began = time.perf_counter()
        plan = plan_round(instance.forecasts, instance.offer, instance.micros)
        seconds.append(time.perf_counter() - began)
        gaps.append(plan.step_s / plan.proven_s - 1)
    claims = {
        "optimal_share": report.at_least(sum(abs(share) < SAME_STEP for share in excess) / INSTANCES, "", 1.0),
        "seconds_small_p99": report.Claim(quantile(seconds_small, 0.99), "s"),
        "seconds_1000x50": report.at_most(statistics.median(seconds), "s", 1.0),
        "gap_1000x50": report.at_most(max(gaps), "", 0.01),
    }
    table = Table("large instance", "planning s", "step time over lower bound")
    for number, (took_s, gap) in enumerate(zip(seconds, gaps, strict=True), start=1):
        table.add_row(str(number), f"{took_s:.2f}", f"{gap:.3%}")
    report.publish("planner", claims, {"excess": excess, "seconds": seconds, "gaps": gaps}, [table], out)


if __name__ == "__main__":
    main()
