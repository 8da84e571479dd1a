"""Many edges: step times with threads of the cloud and with workers on Ray, memory, and plans for thousands of edges.

The runs are of real processes on this machine; the edges, which have the first layer only, share its cores with the
cloud. One thread of the cloud, two threads, one worker and two workers train the same edges in turn, and with --before
the trainer of an earlier checkout. Memory is the proportional set size of all processes of a run in its last round,
and an edge's the growth from the fewest edges to the most. The plans are made by the
planner for simulated forecasts: which worker serves which edge, with cuts and rates; their step is compared with a
lower bound of all plans and assignments.

    .venv/bin/python bench/many_edges.py [--quick] [--plans-only] [--runs-only] [--no-ray] [--before DIR]
        [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from harness import report
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.worker_assignment import assign_workers

HERE = Path(__file__).parents[1]
EDGES = 8, 16, 32, 64
SIMULATED_EDGES = 1000, 10_000
WORKERS = 1, 2, 4, 8, 16, 32
NODES = 1, 4
CUTS, MICRO = 8, 8
TRUNK_BPS = 10e9
ROUNDS, STEPS = 3, 4
SETTINGS: dict[str, tuple[str, ...]] = {
    "1 thread": ("--cloud-threads", "1"), "2 threads": ("--cloud-threads", "2"),
    "1 worker": ("--ray", "local", "--ray-workers", "1"), "2 workers": ("--ray", "local", "--ray-workers", "2"),
}
BEFORE = "before"
SMALL_MODEL, SMALL_MODEL_EDGES = "mlp", 64


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: medians of its rounds after the first, and the memory of all its processes (PSS)."""

    step_ms: float
    cloud_ms: float
    round_ms: float
    memory_bytes: int


def measure(edges: int, flags: Sequence[str], model: str = "signal-cnn", checkout: Path = HERE) -> Measured:
    """Train on loopback, by the trainer of a checkout."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "-m", "trainer.cli", "train", "--local", "--edges", str(edges), "--port", "23000",
            "--runs-dir", directory, "--rounds", str(ROUNDS), "--average-every", str(ROUNDS), "--steps", str(STEPS),
            "--batch", "32", "--micro", "2", "--assume-bps", "1e11", "--model", model,
            "--cuts", ",".join(["1"] * edges), "--json", *flags]
        memory_bytes = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=checkout) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if f'"round": {ROUNDS}, "step": {STEPS - 1}' in line:
                    memory_bytes = memory_of(process.pid)
        if process.returncode:
            raise click.ClickException(f"The run with {edges} edges has failed.")
        (run,) = Path(directory).iterdir()
        rows = json.loads((run / "summary.json").read_text())["rounds"][1:]
    return Measured(
        statistics.median(float(step) for row in rows for step in row["step_ms"]["measured"]),
        statistics.median(row["cloud_ms"]["measured"] for row in rows),
        statistics.median(sum(row["step_ms"]["measured"]) for row in rows), memory_bytes)


def memory_of(pid: int) -> int:
    """Return the proportional set size of a process and all that it has started."""
    found, total = [pid], 0
    while found:
        process = Path("/proc", str(found.pop()))
        with contextlib.suppress(OSError):
            found += [int(child) for child in (process / "task" / process.name / "children").read_text().split()]
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def forecasts(random: np.random.Generator, edges: int, cuts: int = CUTS) -> tuple[list[EdgeForecast], Offer]:
    """Edges of very different speed on fifty access switches on five trunks, which share the link to the cloud.

    `cuts`: layers of the model.
    """
    forward = random.lognormal(-6, 1, cuts)
    backward = forward * random.uniform(1, 3, cuts)
    bits = 3e6 * np.exp(np.cumsum(random.normal(-3 / cuts, 0.4, cuts + 1)))
    found, paths = [], {}
    usable = {"cloud": 40e9} | {f"trunk{number}": TRUNK_BPS for number in range(5)}
    usable |= {f"access{number}": 2e9 for number in range(50)}
    for number in range(edges):
        name, slow = f"e{number}", float(random.lognormal(1.5, 0.5))
        usable[name] = float(random.uniform(20e6, 1e9))
        paths[name] = (name, f"access{number % 50}", f"trunk{number % 5}", "cloud")
        found.append(EdgeForecast(name, tuple(
            Option(cut, "fp32", slow * float(forward[:cut].sum()), slow * float(backward[:cut].sum()),
                   float(forward[cut:].sum() + backward[cut:].sum()), float(bits[cut]), float(bits[cut]))
            for cut in range(1, cuts)), (0.0,) * len(bits), 0.05))
    return found, Offer(paths, paths, usable, floor_bps=1e5)


def towards(offer: Offer, nodes: int) -> dict[str, Offer]:
    """Return the offers towards several nodes of the cloud, at one trunk each, which share the rate towards one.

    Edges of another trunk cross a link between the trunks.
    """
    if nodes == 1:
        return {"cloud": offer}
    usable = {**offer.usable_bps, **{f"cloud{node}": offer.usable_bps["cloud"] / nodes for node in range(nodes)}}
    found = {}
    for node in range(nodes):
        paths = {}
        for edge, (own, access, trunk, _) in offer.up_links.items():
            between = () if trunk == f"trunk{node}" else (f"{trunk}-trunk{node}",)
            usable |= dict.fromkeys(between, TRUNK_BPS)
            paths[edge] = (own, access, trunk, *between, f"cloud{node}")
        found[f"cloud{node}"] = Offer(paths, {edge: path[::-1] for edge, path in paths.items()}, usable,
                                      offer.floor_bps)
    return found


@click.command()
@click.option("--quick", is_flag=True, help="8 edges, and plans for 1,000.")
@click.option("--plans-only", is_flag=True, help="Only the plans.")
@click.option("--runs-only", is_flag=True, help="Only the runs.")
@click.option("--no-ray", is_flag=True, help="Without workers.")
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Checkout of an earlier trainer that is measured, too.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(
    quick: bool, plans_only: bool, runs_only: bool, no_ray: bool, before: Path | None, out: Path | None
) -> None:
    """Compare threads and workers with one thread; plan for thousands of edges."""
    claims: dict[str, report.Claim] = {}
    samples: dict[str, object] = {}
    settings = {name: flags for name, flags in SETTINGS.items() if not (no_ray and "--ray" in flags)}
    names = [*([BEFORE] if before else []), *settings]
    runs = Table("edges", *(f"{name}, ms" for name in names), title="step time / the cloud's part of it (p50)")
    memory: dict[int, int] = {}
    for edges in () if plans_only else EDGES[:1] if quick else EDGES:
        found = {BEFORE: measure(edges, (), checkout=before)} if before else {}
        found |= {name: measure(edges, flags) for name, flags in settings.items()}
        runs.add_row(str(edges), *(f"{each.step_ms:.0f} / {each.cloud_ms:.0f}" for each in found.values()))
        samples[f"measured_{edges}"] = {name: asdict(each) for name, each in found.items()}
        memory[edges] = found["2 threads"].memory_bytes
        for name, each in list(found.items())[1:]:
            claims[f"{name.replace(' ', '_')}_step_ratio_{edges}"] = report.Claim(
                each.step_ms / next(iter(found.values())).step_ms, "")
    if len(memory) > 1:
        growth = (memory[max(memory)] - memory[min(memory)]) / (max(memory) - min(memory))
        claims["memory_per_edge"] = report.at_most(growth / 1e6, "MB", 20)
        small = measure(SMALL_MODEL_EDGES, SETTINGS["2 threads"], SMALL_MODEL)
        samples[f"measured_{SMALL_MODEL}"] = asdict(small)
        claims[f"rounds_per_s_{SMALL_MODEL}_{SMALL_MODEL_EDGES}"] = report.at_least(1e3 / small.round_ms, "/s", 1)
    plans = Table("edges", "nodes", "workers", "step, ms", "over bound", "planning, s", title="plans")
    ratios = []
    for edges in () if runs_only else SIMULATED_EDGES[:1] if quick else SIMULATED_EDGES:
        round_forecasts, offer = forecasts(np.random.default_rng(edges), edges)
        for nodes, workers in [(nodes, workers) for nodes in NODES for workers in WORKERS if workers >= nodes]:
            offers = towards(offer, nodes)
            places = {f"w{number}": list(offers)[number % nodes] for number in range(workers)}
            began = time.perf_counter()
            plan = assign_workers(round_forecasts, offers, MICRO, places).plan
            ratios.append(plan.step_s / plan.proven_s)
            plans.add_row(str(edges), str(nodes), str(workers), f"{1e3 * plan.step_s:.0f}", f"{ratios[-1]:.4f}",
                          f"{time.perf_counter() - began:.1f}")
    if ratios:
        claims["round_over_bound"] = report.at_most(max(ratios), "", 1.15)
    tables = [table for table in (runs, plans) if table.row_count]
    report.publish("many_edges", claims, {**samples, "plans_over_bound": ratios}, tables, out)


if __name__ == "__main__":
    main()
