"""Step time of the pipeline against the lower bound of its busiest part, and the spread of the segments' arrivals.

Real training on the emulated metro map over reserved flows: with micro-batches, so that computing, transfers in both
directions and the cloud's work overlap, and with one micro-batch per mini-batch, without overlap. The lower bound of a
round is the measured time of its busiest part: the computing of the slowest edge (elapsed time, and processor time
within its CPU limit), the flow with the longest transfers at its full reserved rate, the cloud's work. The spread is
the time between the arrivals of the first and the last edge's complete segment of a step; the computed one is the
difference of the edges' forward times, and the least one what the grain of the layers allows.

An edge that blocks computes faster afterwards, as the quota of its CPU limit is refilled meanwhile. `round_over_busy`
ignores the limit, for comparison.

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
from topologies.map_file.loader import map_path


def over_busy(row: Row) -> float:
    """Step time over the busiest part's elapsed time."""
    steps_ms: float = sum(row["step_ms"]["measured"])
    return steps_ms / max(float(row["bound_ms"][part]) for part in ("edge", "link", "cloud"))


def spread_over_beat(rows: list[Row], kind: str) -> float:
    """The median spread of the edges' computed forward times of a micro-batch over the beat."""
    return statistics.median(
        float(row["training_spread_ms"][kind]) / float(row["beat_ms"]) for row in rows[SETTLING_ROUNDS:])


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure training rounds with and without overlap."""
    rounds = SETTLING_ROUNDS + (4 if quick else 20)
    try:
        with emulate(EmulationSettings(map_path("metro"))), StallWatch() as watch:
            overlapped = train(MICROS, rounds)
            sequential = train(1, rounds)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    claims = {
        "round_over_bound": report.at_most(statistics.median(counted_values(overlapped, "round_over_bound")), "", 1.15),
        "round_over_busy": report.Claim(
            statistics.median(over_busy(row) for row in overlapped[SETTLING_ROUNDS:]), ""),
        "spread_share": report.at_most(statistics.median(counted_values(overlapped, "spread_share")), "", 0.02),
        "computed_spread_over_beat": report.Claim(spread_over_beat(overlapped, "measured"), ""),
        "least_spread_over_beat": report.Claim(spread_over_beat(overlapped, "least"), ""),
        "spread_share_worst": report.Claim(max(counted_values(overlapped, "spread_share")), ""),
        "round_over_bound_no_overlap": report.Claim(
            statistics.median(counted_values(sequential, "round_over_bound")), ""),
        "step_ms": report.Claim(step_ms(overlapped), "ms"),
        "step_ms_no_overlap": report.Claim(step_ms(sequential), "ms"),
    }
    samples: dict[str, object] = {
        "overlap": overlapped, "no_overlap": sequential, "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe_stalls(watch.stalls))
    tables = [table_of(f"{MICROS} micro-batches", overlapped), table_of("no overlap", sequential)]
    report.publish("pipeline", claims, samples, tables, out)


if __name__ == "__main__":
    main()
