"""How much incrementally updated bounds exceed those of a new analysis, on rings up to 99.9 % of the load.

Rings of 4, 6 and 8 switches with 1 Gb/s between them; every flow crosses all but one of the ring's ports, so all delays
depend on each other. The ring is filled flow by flow; then flows are replaced, shrunk, removed and added again at
random. After every change the delay of every port is compared with that of an analysis from zero.

    .venv/bin/python bench/incremental_bounds.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
from rich.table import Table

from controller.calculus.curves import Server, ShapingCurve
from controller.calculus.delays import Delays
from controller.calculus.streams import NoBound, Stream
from harness.report import at_least, at_most, publish
from machine.quantile import quantile

SIZES = (4, 6, 8)
UTILISATIONS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999)
FLOWS_PER_SWITCH = 3
RATE_BPS, FRAME_BITS = 1e9, 12_000.0

Change = tuple[dict[int, Stream], list[int]]
"""The flows that are added or replaced, and those that are removed."""


def ring(size: int) -> dict[str, Server]:
    """The ports of a ring in one direction."""
    frame_us = FRAME_BITS / RATE_BPS * 1e6
    port = Server(RATE_BPS, frame_us, frame_us / 25, output_shaping=ShapingCurve(2 * FRAME_BITS, RATE_BPS))
    return {f"s{number}": port for number in range(size)}


def ring_flows(size: int, utilisation: float) -> dict[int, Stream]:
    """The flows that load every port of a ring to this share."""
    rate_bps = utilisation * RATE_BPS // (size - 1) // FLOWS_PER_SWITCH
    paths = [tuple(f"s{(first + hop) % size}" for hop in range(size - 1)) for first in range(size)]
    return {
        number: Stream(paths[number % size], rate_bps, 2 * FRAME_BITS) for number in range(size * FLOWS_PER_SWITCH)
    }


def history(flows: dict[int, Stream], changes: int, chance: random.Random) -> Iterator[Change]:
    """The filling of a ring, flow by flow, and random changes of one flow each."""
    for number, flow in flows.items():
        yield {number: flow}, []
    present = set(flows)
    for _ in range(changes):
        number = chance.choice(list(flows))
        kind = chance.choice(("remove", "replace", "smaller")) if number in present else "replace"
        removed = [number] if number in present else []
        if kind == "remove":
            present.remove(number)
            yield {}, removed
        else:
            present.add(number)
            share = chance.uniform(0.2, 1.0) if kind == "smaller" else 1.0
            flow = flows[number]
            yield {number: replace(flow, rate_bps=share * flow.rate_bps // 1)}, removed


@dataclass
class Comparison:
    """Of all changes of one ring at one load."""

    ratios: list[float] = field(default_factory=list)
    """The largest ratio of an updated delay to a new analysis's after each change."""
    update_ms: list[float] = field(default_factory=list)
    analysis_ms: list[float] = field(default_factory=list)
    has_bound: bool = True


def compare(size: int, utilisation: float, changes: int, chance: random.Random) -> Comparison:
    """Update and analyse a ring after every change of a history."""
    servers, result = ring(size), Comparison()
    delays: Delays[int] = Delays(servers, {})
    for added, removed in history(ring_flows(size, utilisation), changes, chance):
        began = time.process_time()
        try:
            delays = delays.changed(added, removed)
        except NoBound:
            result.has_bound = False
            break
        updated = time.process_time()
        fresh = Delays(servers, delays.streams)
        result.update_ms.append((updated - began) * 1e3)
        result.analysis_ms.append((time.process_time() - updated) * 1e3)
        crossed = {name for stream in delays.streams.values() for name in stream.servers}
        result.ratios.append(max(delays.path_delay_us([name]) / fresh.path_delay_us([name]) for name in crossed))
    return result


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer changes.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Compare updated bounds with new ones."""
    changes, chance = 20 if quick else 200, random.Random(1)
    table = Table("switches", "load", "over a new analysis, at most", "update ms", "new analysis ms")
    results: dict[tuple[int, float], Comparison] = {}
    for size in SIZES:
        for utilisation in UTILISATIONS:
            result = results[size, utilisation] = compare(size, utilisation, changes, chance)
            took = (f"{quantile(times, 0.5):.2f}" for times in (result.update_ms, result.analysis_ms))
            largest = f"{max(result.ratios):.4f}" if result.has_bound else "no bound"
            table.add_row(str(size), f"{utilisation:.1%}", largest, *took)
    bounded = [utilisation for (_, utilisation), result in results.items() if result.has_bound]
    claims = {
        "incremental_over_fresh_max": at_most(max(max(result.ratios) for result in results.values()), "", 1.02),
        "highest_load_with_bound": at_least(max(bounded, default=0.0), "", 0.999),
    }
    samples = {f"ring{size}_{utilisation:g}": result.ratios for (size, utilisation), result in results.items()}
    publish("incremental_bounds", claims, samples, [table], out)


if __name__ == "__main__":
    main()
