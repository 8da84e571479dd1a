"""Many edges: step times with one process in the cloud and with workers on Ray, and plans for thousands of edges.

The runs are of real processes on this machine; the edges, which have the first layer only, share its cores with the
cloud. The cloud's single process, one worker and two workers train the same edges in turn. The plans are made by the
planner for simulated forecasts: which worker serves which edge, with cuts and rates; their step is compared with a
lower bound of all plans and assignments.

    .venv/bin/python bench/many_edges.py [--quick] [--plans-only] [--out FILE.json]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from harness import report
from trainer.planning.plan import EdgeForecast, Offer, Option
from trainer.planning.worker_assignment import assign_workers

EDGES = 8, 16, 32, 64
SIMULATED_EDGES = 1000, 10_000
WORKERS = 1, 2, 4, 8, 16, 32
CUTS, MICRO = 8, 8
ROUNDS, STEPS = 3, 4
SETTINGS: tuple[tuple[str, ...], ...] = ((), ("--ray", "local", "--ray-workers", "1"),
                                         ("--ray", "local", "--ray-workers", "2"))
NAMES = "one process", "1 worker", "2 workers"


def step_ms(edges: int, flags: Sequence[str]) -> float:
    """Return the median step of a run after its first round."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([
            sys.executable, "-m", "trainer.cli.main", "train", "--local", "--edges", str(edges), "--port", "23000",
            "--runs-dir", directory, "--rounds", str(ROUNDS), "--average-every", str(ROUNDS), "--steps", str(STEPS),
            "--batch", "32", "--micro", "2", "--assume-bps", "1e11",
            "--cuts", ",".join(["1"] * edges), "--quiet", *flags], check=True)
        (run,) = Path(directory).iterdir()
        rows = json.loads((run / "summary.json").read_text())["rounds"]
    return statistics.median(float(step) for row in rows[1:] for step in row["step_ms"]["measured"])


def forecasts(random: np.random.Generator, edges: int, cuts: int = CUTS) -> tuple[list[EdgeForecast], Offer]:
    """Edges of very different speed on fifty access switches on five trunks, which share the link to the cloud.

    `cuts`: layers of the model.
    """
    forward = random.lognormal(-6, 1, cuts)
    backward = forward * random.uniform(1, 3, cuts)
    bits = 3e6 * np.exp(np.cumsum(random.normal(-3 / cuts, 0.4, cuts + 1)))
    found, paths = [], {}
    usable = {"cloud": 40e9} | {f"trunk{number}": 10e9 for number in range(5)}
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


@click.command()
@click.option("--quick", is_flag=True, help="8 edges, and plans for 1,000.")
@click.option("--plans-only", is_flag=True, help="Only the plans.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, plans_only: bool, out: Path | None) -> None:
    """Compare workers with one process; plan for thousands of edges."""
    claims: dict[str, report.Claim] = {}
    samples: dict[str, object] = {}
    runs = Table("edges", *(f"{name}, ms" for name in NAMES), title="step time (p50)")
    for edges in () if plans_only else EDGES[:1] if quick else EDGES:
        times = [step_ms(edges, flags) for flags in SETTINGS]
        runs.add_row(str(edges), *(f"{each:.0f}" for each in times))
        samples[f"step_ms_{edges}"] = dict(zip(NAMES, times, strict=True))
        claims[f"two_workers_speedup_{edges}"] = report.Claim(times[0] / times[2], "")
    plans = Table("edges", "workers", "step, ms", "over bound", "planning, s", title="plans")
    ratios = []
    for edges in SIMULATED_EDGES[:1] if quick else SIMULATED_EDGES:
        round_forecasts, offer = forecasts(np.random.default_rng(edges), edges)
        for workers in WORKERS:
            began = time.perf_counter()
            plan = assign_workers(round_forecasts, offer, MICRO, [f"w{number}" for number in range(workers)]).plan
            ratios.append(plan.step_s / plan.proven_s)
            plans.add_row(str(edges), str(workers), f"{1e3 * plan.step_s:.0f}", f"{ratios[-1]:.4f}",
                          f"{time.perf_counter() - began:.1f}")
    claims["round_over_bound"] = report.at_most(max(ratios), "", 1.15)
    report.publish("many_edges", claims, {**samples, "plans_over_bound": ratios}, [runs, plans], out)


if __name__ == "__main__":
    main()
