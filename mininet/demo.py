"""The complete demonstration in one command: `make demo`.

A metro network with heavy cross-traffic; a model trained over reserved flows while an edge loses half its CPU; then
the same transfers without reservations. All figures printed are measured in this run.
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

import demo_report
from emulation.cross_traffic import Flood
from emulation.network import Emulation, EmulationSettings
from emulation.page_process import page
from emulation.session import describe, emulate
from machine import cgroups
from machine.errors import EmulationError
from machine.stall_watch import StallWatch
from topologies.loader import map_path

ROOT = Path(__file__).parents[1]
ROUNDS = 10
HALVE_AFTER_ROUND = 4
READ_BACK_AFTER_ROUND = 8
HALVED_EDGE = "edge2"
RESERVED = ["--target", str(demo_report.ACCURACY_GOAL), "--min-rounds", str(ROUNDS)]
BEST_EFFORT = ["--best-effort", "--rounds", "4", "--steps", "1", "--average-every", "4"]
BEST_EFFORT_LIMIT_S = 75.0
READ_BACK_DELAY_S = 1.5
"""Time into the next round, in which the entries of its rates have carried packets."""
POLL_S = 0.1
INTERRUPTED = 130
"""Exit code of `paceline train` after Ctrl-C."""
PACELINE = [sys.executable, "-m", "trainer.cli.main"]

Event = dict[str, Any]


@dataclass
class RunObserver:
    """Follows the events of a training run and acts on them, as the operator of the network would."""

    emulation: Emulation
    runs: Path
    log: Callable[[str], None]
    observed: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    _known: set[Path] = field(default_factory=set)
    first_step: threading.Event = field(default_factory=threading.Event)
    """Set when the first step of the run begins."""
    _over: threading.Event = field(default_factory=threading.Event)

    def follow(self, act: bool) -> None:
        """Follow the run that starts after `begin` until `end` is called; `act`: change shares, read back meters."""
        handled = 0
        while not self._over.wait(POLL_S):
            self.directory = self.directory or self._new_run()
            if self.directory is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                lines = (self.directory / "events.jsonl").read_text().splitlines()
                for line in lines[handled:]:
                    event = json.loads(line)
                    if event["event"] == "step":
                        self.first_step.set()
                    if act:
                        self._act(event)
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
            host = next(host for host in self.emulation.hosts if host.name == HALVED_EDGE)
            assert host.cpu_share is not None
            cgroups.set_share(host.cgroup, host.cpu_share / 2)
            self.observed |= {"halved_edge": HALVED_EDGE, "halved_after": event["round"]}
            self.log(
                f"[demo] CPU share of {HALVED_EDGE} halved: {host.cpu_share:g} -> {host.cpu_share / 2:g} of a core"
            )
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


def train(
    emulation: Emulation, runs: Path, arguments: list[str], act: bool, limit_s: float | None = None
) -> tuple[dict[str, Any], Path]:
    """Run `paceline train` on the emulation; returns its summary and the directory of its record.

    With `limit_s` the run is stopped that long after its first step began; its record then holds what was measured
    so far.

    Raises: EmulationError if it fails.
    """
    observer = RunObserver(emulation, runs, click.echo)
    observer.begin()
    watching = threading.Thread(target=observer.follow, args=(act,))
    watching.start()
    try:
        _run_training([*PACELINE, "train", "--runs-dir", str(runs), *arguments], observer.first_step, limit_s)
    finally:
        observer.end()
        watching.join()
    if observer.directory is None:
        raise EmulationError("the training run has written no record")
    summary = json.loads((observer.directory / "summary.json").read_text())
    return {**summary, "observed": observer.observed}, observer.directory


def _run_training(command: list[str], first_step: threading.Event, limit_s: float | None) -> None:
    """Run the command and print its lines as they come; interrupt it `limit_s` after `first_step`, which is no failure.

    Raises: EmulationError if it fails.
    """
    # A pipe, not the terminal: the demo's own lines go between the run's, and those of an intended stop are dropped.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    stopped, dropped = threading.Event(), []
    with subprocess.Popen(command, env=environment, **pipes) as process:

        ended = threading.Event()

        def stop_in_time(limit_s: float) -> None:
            while not first_step.wait(POLL_S):
                if ended.is_set():
                    return
            if not ended.wait(limit_s):
                stopped.set()
                process.send_signal(signal.SIGINT)

        timer = threading.Thread(target=stop_in_time, args=(limit_s or 0.0,))
        if limit_s is not None:
            timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if stopped.is_set():
                    dropped.append(line)
                else:
                    click.echo(line, nl=False)
            code = process.wait()
        finally:
            ended.set()
            if limit_s is not None:
                timer.join()
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
    if code and not (stopped.is_set() and code == INTERRUPTED):
        click.echo("".join(dropped), nl=False)
        raise EmulationError(f"the training run failed with exit code {code}")


def _describe_best_effort(summary: dict[str, Any]) -> str:
    done, unfinished = len(demo_report.transfers(summary)), len(demo_report.unfinished(summary))
    if not unfinished:
        return f"best effort: all {done} transfers done"
    return (
        f"best effort: stopped after {BEST_EFFORT_LIMIT_S:g} s, as planned; {done} transfers done, {unfinished} still "
        "in progress (they count with their age so far)"
    )


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
            with page(emulation, runs_dir) as address, Flood(emulation, 1.5) as flood, StallWatch() as watch:
                click.echo(f"watch it at {address} while it runs")
                click.echo(f"cross-traffic: {flood.rate_bps / 1e6:g} Mb/s of UDP, 150 % of the bottleneck")
                console.rule("2. Training over reserved flows")
                reserved, record = train(emulation, runs_dir, [*RESERVED, "--rounds", str(rounds)], act=True)
                console.rule("3. The same transfers without reservations")
                best_effort, other = train(emulation, runs_dir, BEST_EFFORT, act=False, limit_s=BEST_EFFORT_LIMIT_S)
                click.echo(_describe_best_effort(best_effort))
        report = _write_report(record)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    finally:
        _give_to_caller(runs_dir)
    console.rule("4. What was measured")
    results = demo_report.DemoResults(reserved, best_effort, tuple(watch.stalls))
    for part in demo_report.report_parts(results):
        console.print(part)
    console.rule("5. What to do next")
    click.echo(_next_steps(report, record, other))
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


def _next_steps(report: Path, record: Path, other: Path) -> str:
    report, record, other = (_relative(path) for path in (report, record, other))
    sudo = "" if os.geteuid() == 0 and not os.environ.get("SUDO_UID") else "sudo "
    return "\n".join([
        f"Report of the reserved run: {report} (open it in a browser)",
        "",
        "Compare the two runs:",
        f"  .venv/bin/paceline compare {record} {other}",
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
