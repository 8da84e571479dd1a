"""What a step and an edge of a real local run cost: processor time and memory of all its processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROUNDS, STEPS = 10, 4
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class RunCost:
    """Of a step: processor time of all processes, medians of wall time and of the cloud's work; memory in the end."""

    cpu_ms: float
    wall_ms: float
    cloud_ms: float
    memory_bytes: int


def run_cost(edges: int) -> RunCost:
    """Run that many edges and a cloud on this machine, each edge with the first layer; measure the later rounds."""
    with tempfile.TemporaryDirectory() as directory:
        run = subprocess.Popen([
            sys.executable, "-m", "trainer.cli.main", "train", "--local", "--edges", str(edges), "--port", "23100",
            "--runs-dir", directory, "--rounds", str(ROUNDS), "--average-every", str(ROUNDS), "--steps", str(STEPS),
            "--batch", "16", "--micro", "2", "--assume-bps", "1e11", "--cuts", ",".join(["1"] * edges),
            "--keep-segments", "never", "--quiet"])
        try:
            cpu_s, memory_bytes = _watch(run, Path(directory))
            run.wait()
        finally:
            run.terminate()
            run.wait()
        (record,) = Path(directory).iterdir()
        rows = json.loads((record / "summary.json").read_text())["rounds"][1:-1]
    wall = [float(step) for row in rows for step in row["step_ms"]["measured"]]
    cloud = [float(row["cloud_ms"]["measured"]) for row in rows]
    return RunCost(1e3 * cpu_s / STEPS, statistics.median(wall), statistics.median(cloud), memory_bytes)


def _watch(run: subprocess.Popen[bytes], directory: Path) -> tuple[float, int]:
    """Return the processor time of a round, between the first and the last, and the memory before the last one."""
    began: tuple[int, float] | None = None
    while run.poll() is None:
        done = _rounds_done(directory)
        if began is None and done >= 1:
            began = done, _cpu_s(_processes(run.pid))
        if began is not None and done >= ROUNDS - 1:
            processes = _processes(run.pid)
            rounds, cpu_s = began
            return (_cpu_s(processes) - cpu_s) / (done - rounds), sum(map(_memory_bytes, processes))
        time.sleep(POLL_S)
    raise RuntimeError(f"the run ended with code {run.returncode} after {_rounds_done(directory)} rounds")


def _rounds_done(directory: Path) -> int:
    return sum(path.read_text().count('"event": "round_done"') for path in directory.glob("*/events.jsonl"))


def _processes(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += parents.get(process, ())
    return found


def _cpu_s(processes: list[int]) -> float:
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_bytes(process: int) -> int:
    """Return the proportional set size: pages that processes share are divided among them."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0
