"""How near does a round come to what its busiest part alone would need, and how even are the segments' arrivals?

Real training on the emulated metro map over reserved flows: with micro-batches that overlap computing, both ways and
the cloud's work, and with one micro-batch for each mini-batch, where nothing overlaps. The lower bound of a round is
what was measured of the busiest: the slowest edge's computing (by the clock, and its processor time within its CPU
limit), the flow that needs longest at its whole reserved rate, the cloud's work. The spread lies between the first and
the last edge's whole segment of a step.

An edge that waits computes faster by the clock, as its limit's quota is refilled meanwhile. `round_over_busy` leaves
the limit out all the same, for comparison.

    sudo .venv/bin/python bench/pipeline.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import report
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "mininet"))

from emulation import Settings
from problems import EmulationError
from session import emulate
from stalls import StallWatch, describe
from topologies.loader import map_path

MICROS = 4  # as `paceline train` does if nothing else is said
STEPS = 8
SETTLING_ROUNDS = 2
"""The first rounds teach the predictors, and are not counted."""

Row = dict[str, Any]


def train(micros: int, rounds: int, *flags: str) -> list[Row]:
    """The rounds of a training run on the running emulation, as its record tells them.

    Raises: EmulationError if it fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "-m", "trainer.cli", "train", "--runs-dir", directory, "--rounds", str(rounds),
            "--average-every", str(rounds), "--steps", str(STEPS), "--micro", str(micros), *flags,
        ]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code:
            raise EmulationError(f"the training run failed with exit code {code}")
        (run,) = Path(directory).iterdir()
        rows: list[Row] = json.loads((run / "summary.json").read_text())["rounds"]
    return rows


def counted(rows: list[Row], name: str) -> list[float]:
    """A field of the rounds that count."""
    return [float(row[name]) for row in rows[SETTLING_ROUNDS:]]


def over_busy(row: Row) -> float:
    """The steps' time over the busiest by the clock alone."""
    steps_ms: float = sum(row["step_ms"]["measured"])
    return steps_ms / max(float(row["bound_ms"][part]) for part in ("edge", "link", "cloud"))


def step_ms(rows: list[Row]) -> float:
    """What a step took, typically."""
    steps: list[float] = [step for row in rows[SETTLING_ROUNDS:] for step in row["step_ms"]["measured"]]
    return statistics.median(steps)


def table_of(title: str, rows: list[Row]) -> Table:
    """One row a round."""
    table = Table("round", "cuts", "beat", "step predicted", "step p50", "bound: edge", "limit", "link", "cloud",
                  "over bound", "spread share", title=f"{title} (ms)")
    for row in rows:
        steps = len(row["step_ms"]["measured"])
        table.add_row(
            str(row["round"]), " ".join(str(edge["cut"]) for edge in row["edges"]), f"{row['beat_ms']:.1f}",
            f"{row['step_ms']['predicted']:.0f}", f"{statistics.median(row['step_ms']['measured']):.0f}",
            *(f"{row['bound_ms'][part] / steps:.0f}" for part in ("edge", "limit", "link", "cloud")),
            f"{row['round_over_bound']:.3f}", f"{row['spread_share']:.2%}",
        )
    return table


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure training rounds with and without overlap."""
    rounds = SETTLING_ROUNDS + (4 if quick else 20)
    try:
        with emulate(Settings(map_path("metro"))), StallWatch() as watch:
            overlapped = train(MICROS, rounds)
            one_by_one = train(1, rounds)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    claims = {
        "round_over_bound": report.at_most(statistics.median(counted(overlapped, "round_over_bound")), "", 1.15),
        "round_over_busy": report.Claim(
            statistics.median(over_busy(row) for row in overlapped[SETTLING_ROUNDS:]), ""),
        "spread_share": report.at_most(statistics.median(counted(overlapped, "spread_share")), "", 0.02),
        "spread_share_worst": report.Claim(max(counted(overlapped, "spread_share")), ""),
        "round_over_bound_no_overlap": report.Claim(
            statistics.median(counted(one_by_one, "round_over_bound")), ""),
        "step_ms": report.Claim(step_ms(overlapped), "ms"),
        "step_ms_no_overlap": report.Claim(step_ms(one_by_one), "ms"),
    }
    samples: dict[str, object] = {
        "overlap": overlapped, "no_overlap": one_by_one, "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe(watch.stalls))
    tables = [table_of(f"{MICROS} micro-batches", overlapped), table_of("no overlap", one_by_one)]
    report.publish("pipeline", claims, samples, tables, out)


if __name__ == "__main__":
    main()
