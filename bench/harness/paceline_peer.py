"""`paceline train` on a running emulation, as one of several peers; its events as those of the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.fedadapt import RUNS_VARIABLE
from machine.errors import EmulationError

ROOT = Path(__file__).parents[2]

Event = dict[str, Any]


@dataclass
class PacelineRun:
    """A run in progress; `runs`: the folder of its record alone."""

    runs: Path
    process: subprocess.Popen[bytes]

    def events(self) -> list[Event]:
        """Return what the run has recorded so far: first_round, and evaluated with its accuracy.

        Raises: EmulationError if the run has failed.
        """
        if self.process.poll():
            raise EmulationError(f"the training run failed: {(self.runs / 'output.log').read_text()}")
        lines = [line for path in self.runs.glob("*/events.jsonl") for line in path.read_text().splitlines()]
        events: list[Event] = []
        for event in (json.loads(line) for line in lines if line.endswith("}")):
            if event["event"] == "step" and not events:
                events.append({"event": "first_round", "time": event["time"]})
            elif event["event"] == "round_done" and event["accuracy"] is not None:
                events.append({"event": "evaluated", "time": event["time"], "accuracy": event["accuracy"]})
        return events


@contextlib.contextmanager
def paceline_run(directory: Path, cgroup: Sequence[str], arguments: Sequence[str]) -> Iterator[PacelineRun]:
    """Start a run in a control group with its record in a new directory; interrupt it at the end of the block."""
    directory.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}", RUNS_VARIABLE: str(directory)}
    command = [sys.executable, "-m", "trainer.cli.main", "train", "--runs-dir", str(directory), "--quiet", *arguments]
    with (directory / "output.log").open("wb") as log:
        process = subprocess.Popen(in_cgroup(cgroup, command), env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT)
    try:
        yield PacelineRun(directory, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()


def in_cgroup(directories: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return a command that joins a control group before it runs."""
    joins = "".join(f"echo $$ > {directory}/cgroup.procs; " for directory in directories)
    return ["sh", "-ec", f'{joins}exec "$@"', "sh", *command]
