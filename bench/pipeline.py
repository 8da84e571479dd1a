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

import statistics
from dataclasses import asdict
from pathlib import Path

import click

from harness import report
from emulation.network import EmulationSettings
from emulation.session import emulate
from harness.training_run import MICROS, SETTLING_ROUNDS, Row, counted_values, step_ms, table_of, train
from machine.errors import EmulationError
from machine.stall_watch import StallWatch, describe_stalls
from topologies.loader import map_path


def over_busy(row: Row) -> float:
    """The steps' time over the busiest by the clock alone."""
    steps_ms: float = sum(row["step_ms"]["measured"])
    return steps_ms / max(float(row["bound_ms"][part]) for part in ("edge", "link", "cloud"))






@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure training rounds with and without overlap."""
    rounds = SETTLING_ROUNDS + (4 if quick else 20)
    try:
        with emulate(EmulationSettings(map_path("metro"))), StallWatch() as watch:
            overlapped = train(MICROS, rounds)
            one_by_one = train(1, rounds)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    claims = {
        "round_over_bound": report.at_most(statistics.median(counted_values(overlapped, "round_over_bound")), "", 1.15),
        "round_over_busy": report.Claim(
            statistics.median(over_busy(row) for row in overlapped[SETTLING_ROUNDS:]), ""),
        "spread_share": report.at_most(statistics.median(counted_values(overlapped, "spread_share")), "", 0.02),
        "spread_share_worst": report.Claim(max(counted_values(overlapped, "spread_share")), ""),
        "round_over_bound_no_overlap": report.Claim(
            statistics.median(counted_values(one_by_one, "round_over_bound")), ""),
        "step_ms": report.Claim(step_ms(overlapped), "ms"),
        "step_ms_no_overlap": report.Claim(step_ms(one_by_one), "ms"),
    }
    samples: dict[str, object] = {
        "overlap": overlapped, "no_overlap": one_by_one, "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe_stalls(watch.stalls))
    tables = [table_of(f"{MICROS} micro-batches", overlapped), table_of("no overlap", one_by_one)]
    report.publish("pipeline", claims, samples, tables, out)


if __name__ == "__main__":
    main()
