"""Cost of label protection in step time and transferred bytes.

Real training on the emulated metro map over reserved flows, once with labels sent beside the segments and once with
the last layer and the loss on the edges; each run plans its own cuts.

    sudo .venv/bin/python bench/label_protection.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path

import click

from harness import report
from emulation.network import EmulationSettings
from emulation.session import emulate
from harness.training_run import MICROS, SETTLING_ROUNDS, Row, step_ms, table_of, train
from machine.errors import EmulationError
from machine.stall_watch import StallWatch, describe_stalls
from topologies.map_file.loader import map_path


def step_bytes(rows: list[Row], direction: str) -> float:
    """Bytes per step in one direction, summed over the edges; median of the rounds."""
    by_round: list[float] = [
        sum(transfer["bytes"] for transfer in row["transfers"] if transfer["direction"] == direction)
        / len(row["step_ms"]["measured"])
        for row in rows[SETTLING_ROUNDS:]
    ]
    return statistics.median(by_round)


def predicted_ms(rows: list[Row], name: str) -> float:
    """Predicted step time; median of the rounds."""
    by_round: list[float] = [row["step_ms"][name] for row in rows[SETTLING_ROUNDS:]]
    return statistics.median(by_round)


def kept_share(rows: list[Row]) -> float:
    """Share of the reserved transfers that met their bound."""
    kept: list[bool] = [
        transfer["kept"] for row in rows for transfer in row["transfers"] if transfer["kept"] is not None
    ]
    return sum(kept) / len(kept)


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure training rounds with and without protected labels."""
    rounds = SETTLING_ROUNDS + (4 if quick else 16)
    try:
        with emulate(EmulationSettings(map_path("metro"))), StallWatch() as watch:
            plain = train(MICROS, rounds)
            protected = train(MICROS, rounds, "--protect-labels")
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    claims = {
        "step_over_unprotected": report.Claim(step_ms(protected) / step_ms(plain), ""),
        "predicted_step_over_unprotected": report.Claim(
            predicted_ms(protected, "predicted") / predicted_ms(plain, "predicted"), ""),
        "predicted_same_cuts": report.Claim(
            predicted_ms(protected, "predicted") / predicted_ms(protected, "unprotected"), ""),
        "up_bytes_over_unprotected": report.Claim(step_bytes(protected, "up") / step_bytes(plain, "up"), ""),
        "down_bytes_over_unprotected": report.Claim(step_bytes(protected, "down") / step_bytes(plain, "down"), ""),
        "step_over_predicted": report.Claim(step_ms(protected) / predicted_ms(protected, "predicted"), ""),
        "step_over_predicted_unprotected": report.Claim(step_ms(plain) / predicted_ms(plain, "predicted"), ""),
        "kept_share": report.Claim(kept_share(protected), ""),
        "kept_share_unprotected": report.Claim(kept_share(plain), ""),
    }
    samples: dict[str, object] = {
        "plain": plain, "protected": protected, "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe_stalls(watch.stalls))
    tables = [table_of("labels sent", plain), table_of("labels protected", protected)]
    report.publish("labels", claims, samples, tables, out)


if __name__ == "__main__":
    main()
