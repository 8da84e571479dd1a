"""How cost grows: steps and memory of real runs, plans, decisions, and a model's steps and averages.

Against the number of edges (real runs on this machine, and simulated forecasts for the planner), live reservations,
flows of one request, switches, layers and parameters. Times are processor times, which a busy machine changes less
than the time on a clock; the wall time of a step is beside them. `n^k` in the tables is the exponent of the growth
since the row above: 0 does not grow, 1 is proportional.

    .venv/bin/python bench/growth.py [--quick] [--runs FILE.json] [--image FILE.svg] [--out FILE.json]
"""

from __future__ import annotations

import gc
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import inf
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.table import Table
from torch import nn

import admission_scale
import many_edges
from controller.admission.admission import Request, decide
from controller.domain.reservation import Flow, Match, Requirement
from harness.local_run_cost import RunCost, run_cost
from harness.report import Claim, publish
from trainer.models.averaging import average
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel, ServerModel
from trainer.models.stage import Stage
from trainer.planning.worker_assignment import assign_workers
from trainer.processes.malloc import retain_freed_memory

Series = dict[float, float]
"""A cost against a size."""

REAL_EDGES = 2, 4, 8, 16, 32, 64
PLANNED_EDGES = 2, 8, 32, 100, 316, 1000, 3162, 10_000
LAYERS, EDGES_OF_LAYERS = (4, 8, 16, 32, 64, 128), 16
LIVE = 10, 100, 1000, 10_000
FLOWS = 1, 2, 4, 8, 16, 32, 64, 128
LIVE_OF_FLOWS = 300
SIDES = 5, 8, 12, 18, 30
WIDTHS = 32, 100, 316, 1000, 2000
DEPTH, BATCH, MODELS = 6, 32, 4
"""The models of linear layers: their layers, samples of a step, and how many are averaged."""
REPEATS = 5
STEPS_OF_RUNS, MEMORY_OF_RUNS = "a step of a real run", "memory of a real run"


def cpu_ms(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least processor time of `work` in this process: what other work on the machine adds is left out."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - began))
    return min(taken)


def plans(edges: int, layers: int = many_edges.CUTS) -> float:
    """Return the time of a plan for simulated edges and a model of that many layers."""
    found, offer = many_edges.forecasts(np.random.default_rng(edges), edges, layers)
    return cpu_ms(lambda: assign_workers(found, {"": offer}, many_edges.MICRO, {"cloud": ""}), 1 if edges > 1000 else 3)


def decisions(live: int, side: int, flows: tuple[int, ...] = (1,)) -> tuple[Series, float]:
    """Return the time of a decision on requests of so many flows, beside `live` reservations on side x side switches.

    Also the memory that a live reservation takes in the core, in bytes.
    """
    filling = admission_scale.FillingCalendar(admission_scale.grid(random.Random(1), side), random.Random(2))
    pairs = filling.pairs
    request = _request(pairs, 1, 0)
    decide(filling.network, filling.calendar, filling.live, request, admission_scale.NOW_S)  # finds paths, kept
    for _ in range(len(pairs)):
        filling.time_decision(keep=False)
    before = resident_bytes()
    while filling.count < live:
        filling.time_decision()
    gc.collect()
    grown = (resident_bytes() - before) / live
    requests = {count: [_request(pairs, count, number) for number in range(max(8, 64 // count))] for count in flows}
    times = {float(count): statistics.median(
        cpu_ms(lambda one=one: decide(filling.network, filling.calendar, filling.live, one,  # type: ignore[misc]
                                      admission_scale.NOW_S)) for one in many)
             for count, many in requests.items()}
    return times, grown


def _request(pairs: list[tuple[str, ...]], flows: int, number: int) -> Request:
    chance, found = random.Random(number), []
    for place in range(flows):
        source, destination = chance.choice(pairs)
        match = Match("tcp", 1 + number, 1 + place)
        found.append(Flow(f"f{place}", source, destination, match, Requirement(1_000_000, 20_000)))
    return Request(f"growth-{number}", 1, tuple(found), None, inf)


def resident_bytes() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def model_costs(width: int) -> tuple[int, float, float]:
    """Return parameters of a model of linear layers, and the times of a step of both halves and of an average."""
    def layers() -> list[nn.Module]:
        torch.manual_seed(1)
        return [*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(DEPTH - 1)), nn.Linear(width, 10)]

    optimizer, cut = OptimizerConfig("adam", 0.001), DEPTH // 2
    edge, cloud = ClientModel(Stage(layers(), 0, cut, optimizer)), ServerModel(Stage(layers(), cut, DEPTH, optimizer))
    inputs, targets = torch.randn(BATCH, width), torch.randint(10, (BATCH,))
    stream = RandomStream(1, "edge1", 1, 0, 0)

    def step() -> None:
        gradients, _ = cloud.train(edge.forward(inputs, stream), targets, BATCH, stream)
        edge.backward(0, gradients)
        edge.step()
        cloud.step()

    step()
    whole = [nn.Sequential(*layers()).state_dict() for _ in range(MODELS)]
    for number, model in enumerate(whole):
        for value in model.values():
            value += number
    parameters = sum(value.numel() for value in whole[0].values())
    return parameters, cpu_ms(step), cpu_ms(lambda: average(whole, [1.0] * MODELS))


def real_runs(sizes: tuple[int, ...]) -> tuple[dict[str, Series], Series]:
    """Return the times of a step and the memory (MB) of real runs with so many edges."""
    runs: dict[int, RunCost] = {each: run_cost(each) for each in sizes}
    return ({"processor ms": {float(each): cost.cpu_ms for each, cost in runs.items()},
             "wall ms": {float(each): cost.wall_ms for each, cost in runs.items()},
             "cloud, wall ms": {float(each): cost.cloud_ms for each, cost in runs.items()}},
            {float(each): cost.memory_bytes / 1e6 for each, cost in runs.items()})


def read_runs(figures: Path) -> tuple[dict[str, Series], Series]:
    """Return what `real_runs` measured, from the figures of an earlier run of this script."""
    samples = json.loads(figures.read_text())["samples"]
    return ({name: dict(points) for name, points in samples[STEPS_OF_RUNS].items()},
            dict(samples[MEMORY_OF_RUNS]["all processes"]))


def exponents(series: Series) -> list[str]:
    """Return the exponent of the growth between each size and the one before."""
    sizes = list(series)
    return ["", *(f"n^{math.log(series[after] / series[before]) / math.log(after / before):.2f}"
                  for before, after in pairwise(sizes))]


def table(title: str, size: str, columns: Mapping[str, Series]) -> Table:
    """Return a table of costs against one size, each with its exponents."""
    shown = Table(size, *(heading for name in columns for heading in (name, "")), title=title)
    cells = [cell for series in columns.values()
             for cell in ([f"{value:,.2f}" for value in series.values()], exponents(series))]
    for row, each in enumerate(next(iter(columns.values()))):
        shown.add_row(f"{each:,.0f}", *(column[row] for column in cells))
    return shown


def picture(panels: Mapping[str, tuple[str, str, Mapping[str, Series]]]) -> Figure:
    """Draw the panels: size, unit and series by title, both axes logarithmic."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    for place, (title, (size, unit, columns)) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(2, 3, place)
        for name, series in columns.items():
            axes.plot(list(series), list(series.values()), marker="o", markersize=3, linewidth=1.2, label=name)
        axes.set(xscale="log", yscale="log", xlabel=size, ylabel=unit)
        sizes = sorted({point for series in columns.values() for point in series})
        if sizes[-1] < 100 * sizes[0]:
            axes.set_xticks(sizes, [f"{point:,.0f}" for point in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, which="major", linewidth=0.4, alpha=0.6)
        axes.legend(fontsize=7)
    return figure


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes only.")
@click.option("--runs", "earlier", type=click.Path(dir_okay=False, exists=True, path_type=Path),
              help="Take the real runs, a quarter of an hour on a busy machine, from the figures of an earlier --out.")
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path), help="Draw the plots there (SVG or PNG).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")
def main(quick: bool, earlier: Path | None, image: Path | None, out: Path | None) -> None:
    """Measure how cost grows with every size."""
    torch.set_num_threads(1)
    retain_freed_memory()  # as cloud and edges do

    def of(sizes: tuple[int, ...], few: int = 2) -> tuple[int, ...]:
        return sizes[:few] if quick else sizes

    live = {each: decisions(each, 12) for each in of(LIVE)}
    flows = decisions(LIVE_OF_FLOWS, 12, of(FLOWS))[0]
    switches = {float(side * side): decisions(LIVE_OF_FLOWS, side)[0][1.0] for side in of(SIDES)}
    planned: Series = {float(each): plans(each) for each in of(PLANNED_EDGES)}
    layered: Series = {float(each): plans(EDGES_OF_LAYERS, each) for each in of(LAYERS)}
    models = [model_costs(width) for width in of(WIDTHS)]
    real, memory = real_runs(of(REAL_EDGES, 1)) if earlier is None else read_runs(earlier)
    panels: dict[str, tuple[str, str, Mapping[str, Series]]] = {
        STEPS_OF_RUNS: ("edges", "ms", real),
        MEMORY_OF_RUNS: ("edges", "MB", {"all processes": memory}),
        "a plan of all cuts and rates": ("edges or layers", "processor ms", {
            "edges, 8 layers": planned, f"layers, {EDGES_OF_LAYERS} edges": layered}),
        "a decision, one flow, 144 switches": ("live reservations", "processor ms", {
            "decision": {float(each): times[1.0] for each, (times, _) in live.items()}}),
        f"a decision beside {LIVE_OF_FLOWS} reservations": ("flows or switches", "processor ms", {
            "flows of a request": flows, "switches, one flow": switches}),
        "a model of linear layers": ("parameters", "processor ms", {
            f"step, {BATCH} samples": {float(count): step for count, step, _ in models},
            f"average of {MODELS} models": {float(count): mean for count, _, mean in models}})}
    tables = []
    for title, (size, _, columns) in panels.items():
        sizes = size.split(" or ")
        parts = [columns] if len(sizes) == 1 else [{name: series} for name, series in columns.items()]
        tables += [table(title, each, part) for each, part in zip(sizes, parts, strict=True)]
    figure = picture(panels)
    if image is not None:
        with rc_context({"svg.hashsalt": "growth"}):
            figure.savefig(image, metadata={"Date": None} if image.suffix == ".svg" else None, dpi=90)
    claims = {
        "planner_s_largest": Claim(1e-3 * list(planned.values())[-1], "s"),
        "decision_growth_live": Claim(list(live.values())[-1][0][1.0] / next(iter(live.values()))[0][1.0], "x"),
        "reservation_bytes": Claim(list(live.values())[-1][1], "bytes"),
        "step_cpu_ms_an_edge": Claim(real["processor ms"][max(memory)] / max(memory), "ms"),
        "memory_mb_an_edge": Claim(
            (memory[max(memory)] - memory[min(memory)]) / max(1.0, max(memory) - min(memory)), "MB"),
    }
    samples: dict[str, object] = {title: {name: list(series.items()) for name, series in columns.items()}
                                  for title, (_, _, columns) in panels.items()}
    publish("growth", claims, samples, tables, out)


if __name__ == "__main__":
    main()
