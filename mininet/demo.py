"""The complete demonstration in one command: `make demo`.

A metro network with heavy cross-traffic; a model trained over reserved flows while an edge loses half its CPU; then
the same training with and without reservations beside several kinds of cross-traffic. All figures printed are measured
in this run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console

import demo_comparison
import demo_report
from demo_comparison import PACELINE
from emulation.cross_traffic import Flood
from emulation.network import Emulation, EmulationSettings
from emulation.page_process import page
from emulation.session import describe, emulate
from machine import cgroups
from machine.errors import EmulationError
from machine.stall_watch import StallWatch
from topologies.map_file.loader import map_path

ROOT = Path(__file__).parents[1]
ROUNDS = 10
HALVE_AFTER_ROUND = 4
READ_BACK_AFTER_ROUND = 8
HALVED_EDGE = "edge2"
RESERVED = ["--target", str(demo_report.ACCURACY_GOAL), "--min-rounds", str(ROUNDS)]
READ_BACK_DELAY_S = 1.5
"""Time into the next round, in which the entries of its rates have carried packets."""
POLL_S = 0.1

Event = dict[str, Any]


def set_halved_share(emulation: Emulation, factor: float) -> float:
    """Give HALVED_EDGE this part of its CPU share; returns its cores."""
    host = next(host for host in emulation.hosts if host.name == HALVED_EDGE)
    assert host.cpu_share is not None
    cgroups.set_share(host.cgroup, factor * host.cpu_share)
    return factor * host.cpu_share


@dataclass
class RunObserver:
    """Follows the events of a training run and acts on them, as the operator of the network would."""

    emulation: Emulation
    runs: Path
    log: Callable[[str], None]
    observed: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    _known: set[Path] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """Follow the run that starts after `begin` until `end` is called; change shares, read back meters."""
        handled = 0
        while not self._over.wait(POLL_S):
            self.directory = self.directory or self._new_run()
            if self.directory is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                lines = (self.directory / "events.jsonl").read_text().splitlines()
                for line in lines[handled:]:
                    self._act(json.loads(line))
                handled = len(lines)

    def begin(self) -> None:
        """Record the existing runs, so that the next one is recognised."""
        self._known = set(self.runs.glob("*"))

    def end(self) -> None:
        """Stop following."""
        self.directory = self.directory or self._new_run()
        self._over.set()

    def _new_run(self) -> Path | None:
        return next(iter(set(self.runs.glob("*/")) - self._known), None)

    def _act(self, event: Event) -> None:
        if event["event"] != "round_done":
            return
        if event["round"] == HALVE_AFTER_ROUND:
            share = set_halved_share(self.emulation, 0.5)
            self.observed |= {"halved_edge": HALVED_EDGE, "halved_after": event["round"]}
            self.log(f"[demo] CPU share of {HALVED_EDGE} halved: {2 * share:g} -> {share:g} of a core")
        elif event["round"] == READ_BACK_AFTER_ROUND:
            time.sleep(READ_BACK_DELAY_S)
            self.observed["reservation"] = self._read_back()

    def _read_back(self) -> dict[str, Any] | None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.emulation.settings.rest_port}/v1", timeout=20) as api:
            live = api.get("/reservations", params={"state": "active"}).json()["reservations"]
            if not live:
                return None
            reservation: dict[str, Any] = api.get(f"/reservations/{live[0]['id']}").json()
            return reservation


def train(emulation: Emulation, runs: Path, arguments: list[str]) -> tuple[dict[str, Any], Path]:
    """Run `paceline train` on the emulation; returns its summary and the directory of its record.

    Raises: EmulationError if it fails.
    """
    observer = RunObserver(emulation, runs, click.echo)
    observer.begin()
    watching = threading.Thread(target=observer.follow)
    watching.start()
    try:
        _run_training([*PACELINE, "train", "--runs-dir", str(runs), *arguments])
    finally:
        observer.end()
        watching.join()
    if observer.directory is None:
        raise EmulationError("the training run has written no record")
    summary = json.loads((observer.directory / "summary.json").read_text())
    return {**summary, "observed": observer.observed}, observer.directory


def _run_training(command: list[str]) -> None:
    """Run the command and print its lines as they come.

    Raises: EmulationError if it fails.
    """
    # A pipe, not the terminal: the demo's own lines go between the run's.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                click.echo(line, nl=False)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
    if code:
        raise EmulationError(f"the training run failed with exit code {code}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(ROUNDS), default=ROUNDS, show_default=True, help="Rounds of training.")
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "runs",
              help="Directory of the run records.  [default: runs]")  # fmt: skip
def main(rounds: int, runs_dir: Path) -> None:
    """Train on the metro map with and without reservations, and print what was measured (about three minutes)."""
    console = Console(width=None if sys.stdout.isatty() else 118)
    begun = time.monotonic()
    runs_dir.mkdir(exist_ok=True)
    try:
        with emulate(EmulationSettings(map_path("metro"))) as emulation:
            console.rule("1. The network")
            describe(emulation, click.echo)
            with page(emulation, runs_dir) as address, StallWatch() as watch:
                click.echo(f"watch it at {address} while it runs")
                with Flood(emulation, 1.5) as flood:
                    click.echo(f"cross-traffic: {flood.rate_bps / 1e6:g} Mb/s of UDP, 150 % of the bottleneck")
                    console.rule("2. Training over reserved flows")
                    reserved, record = train(emulation, runs_dir, [*RESERVED, "--rounds", str(rounds)])
                set_halved_share(emulation, 1.0)
                console.rule("3. Rounds beside other cross-traffic, with and without reservations")
                click.echo(f"the same steps over the same paths: {demo_comparison.OTHER_WAY} is out of service")
                compared = demo_comparison.compare(emulation, runs_dir)
        report = _write_report(record)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    finally:
        _give_to_caller(runs_dir)
    console.rule("4. What was measured")
    results = demo_report.DemoResults(reserved, *compared, tuple(watch.stalls))
    for part in demo_report.report_parts(results):
        console.print(part)
    console.rule("5. What to do next")
    click.echo(_next_steps(report, *(run.directory for run in compared)))
    click.echo(f"the demo took {time.monotonic() - begun:.0f} s")
    sys.exit(0 if all(verdict.holds for verdict in demo_report.verdicts(results)) else 1)


def _write_report(record: Path) -> Path:
    """Write the HTML report of a run, as `paceline report` does; returns its path.

    Raises: EmulationError if it cannot be written.
    """
    done = subprocess.run([*PACELINE, "report", str(record)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"paceline report failed: {done.stderr.strip()}")
    return record / "report.html"


def _next_steps(report: Path, reserved: Path, best_effort: Path) -> str:
    report, reserved, best_effort = (_relative(path) for path in (report, reserved, best_effort))
    sudo = "" if os.geteuid() == 0 and not os.environ.get("SUDO_UID") else "sudo "
    return "\n".join([
        f"Report of the training over reserved flows: {report} (open it in a browser)",
        "",
        "Compare the two runs of part 3:",
        f"  .venv/bin/paceline compare {reserved} {best_effort}",
        "Start the same network with a prompt, and train on it from a second terminal:",
        f"  {sudo}.venv/bin/python mininet/start.py metro --cross-traffic 150%",
        f"  {sudo}.venv/bin/paceline train",
        "",
    ])


def _relative(path: Path) -> Path:
    return path.resolve().relative_to(Path.cwd()) if path.resolve().is_relative_to(Path.cwd()) else path


def _give_to_caller(runs: Path) -> None:
    """Under sudo, make the calling user the owner of the run records."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group:
        for path in (runs, *runs.rglob("*")):
            os.chown(path, int(user), int(group))


if __name__ == "__main__":
    main()
