"""Training runs on a running emulation, and the figures of their rounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from machine.errors import EmulationError

MICROS = 4  # the default of `paceline train`


STEPS = 8


SETTLING_ROUNDS = 2
"""Rounds in which the predictors learn; they are not counted."""


Row = dict[str, Any]


def train(micros: int, rounds: int, *flags: str) -> list[Row]:
    """Run `paceline train` on the running emulation; returns the rounds of its record.

    Raises: EmulationError if it fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, "-m", "trainer.cli.main", "train", "--runs-dir", directory, "--rounds", str(rounds),
            "--average-every", str(rounds), "--steps", str(STEPS), "--micro", str(micros), *flags,
        ]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code:
            raise EmulationError(f"the training run failed with exit code {code}")
        (run,) = Path(directory).iterdir()
        rows: list[Row] = json.loads((run / "summary.json").read_text())["rounds"]
    return rows


def counted_values(rows: list[Row], name: str) -> list[float]:
    """A field of all counted rounds."""
    return [float(row[name]) for row in rows[SETTLING_ROUNDS:]]


def step_ms(rows: list[Row]) -> float:
    """The median step time."""
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
