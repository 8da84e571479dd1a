"""The whole job in one run: `make demo`.

A metro network with heavy cross-traffic; a model trained over reserved flows while an edge loses half its CPU; then
the same transfers with nothing reserved. Everything printed was measured in this run.
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

import demo_report as findings
from emulation.cross_traffic import Flood
from emulation.network import Emulation, EmulationSettings
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
RESERVED = ["--target", str(findings.ACCURACY_GOAL), "--min-rounds", str(ROUNDS)]
BEST_EFFORT = ["--best-effort", "--rounds", "4", "--steps", "1", "--average-every", "4"]
BEST_EFFORT_LIMIT_S = 75.0
READ_BACK_DELAY_S = 1.5
"""Into the next round: its new rates have set the meters' counters back to zero."""
POLL_S = 0.1

Event = dict[str, Any]


@dataclass
class Observer:
    """Follows a run's events and acts on them, as an operator at the side of the network would."""

    emulation: Emulation
    runs: Path
    say: Callable[[str], None]
    seen: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    _known: set[Path] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def follow(self, act: bool) -> None:
        """Watch the run that begins after this call until `end` is called; change things only if `act`."""
        seen = 0
        while not self._over.wait(POLL_S):
            self.directory = self.directory or self._new_run()
            if self.directory is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                lines = (self.directory / "events.jsonl").read_text().splitlines()
                for line in lines[seen:]:
                    if act:
                        self._act(json.loads(line))
                seen = len(lines)

    def begin(self) -> None:
        """Remember the runs there are, so that the next one is recognised."""
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
            self.seen |= {"halved_edge": HALVED_EDGE, "halved_after": event["round"]}
            self.say(f"[demo] {HALVED_EDGE} now has {host.cpu_share / 2:g} of a core instead of {host.cpu_share:g}")
        elif event["round"] == READ_BACK_AFTER_ROUND:
            time.sleep(READ_BACK_DELAY_S)
            self.seen["reservation"] = self._read_back()

    def _read_back(self) -> dict[str, Any] | None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.emulation.settings.rest_port}/v1", timeout=20) as api:
            live = api.get("/reservations", params={"state": "active"}).json()["reservations"]
            if not live:
                return None
            facts: dict[str, Any] = api.get(f"/reservations/{live[0]['id']}").json()
            return facts


def train(
    emulation: Emulation, runs: Path, arguments: list[str], act: bool, limit_s: float | None = None
) -> tuple[dict[str, Any], Path]:
    """Run `paceline train` beside the emulation; returns its summary and where the record is.

    With `limit_s` a run that is not done by then is ended, and its record says how far it came.

    Raises: EmulationError if it fails.
    """
    observer = Observer(emulation, runs, click.echo)
    observer.begin()
    watching = threading.Thread(target=observer.follow, args=(act,))
    watching.start()
    try:
        command = [sys.executable, "-m", "trainer.cli.main", "train", "--runs-dir", str(runs), *arguments]
        code = _run(command, limit_s)
    finally:
        observer.end()
        watching.join()
    if observer.directory is None or (code and limit_s is None):
        raise EmulationError(f"the training run failed with exit code {code}")
    summary = json.loads((observer.directory / "summary.json").read_text())
    return {**summary, "observed": observer.seen}, observer.directory


def _run(command: list[str], limit_s: float | None) -> int:
    lines = {**os.environ, "TTY_COMPATIBLE": "0"}  # no live table: what is said here stands between its lines
    with subprocess.Popen(command, env=lines) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            click.echo(f"[demo] not done after {limit_s:g} s: ended")
            process.send_signal(signal.SIGINT)
            return process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


@click.command()
@click.option("--rounds", type=click.IntRange(ROUNDS), default=ROUNDS, show_default=True)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "runs")
def main(rounds: int, runs_dir: Path) -> None:
    """Train on the metro map with and without reservations, and print what was measured."""
    console = Console(width=None if sys.stdout.isatty() else 118)
    begun = time.monotonic()
    runs_dir.mkdir(exist_ok=True)
    try:
        with emulate(EmulationSettings(map_path("metro"))) as emulation:
            console.rule("1. The network")
            describe(emulation, click.echo)
            with Flood(emulation, 1.5) as flood, StallWatch() as watch:
                click.echo(f"cross-traffic: {flood.rate_bps / 1e6:g} Mb/s of UDP, 150 % of the bottleneck")
                console.rule("2. Training over reserved flows")
                reserved, record = train(emulation, runs_dir, [*RESERVED, "--rounds", str(rounds)], act=True)
                console.rule("3. The same transfers with nothing reserved")
                best_effort, other = train(emulation, runs_dir, BEST_EFFORT, act=False, limit_s=BEST_EFFORT_LIMIT_S)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    finally:
        _give_to_the_caller(runs_dir)
    console.rule("4. What was measured")
    found = findings.Findings(reserved, best_effort, tuple(watch.stalls))
    for part in findings.tell(found):
        console.print(part)
    click.echo(f"records: {record} (reserved), {other} (best effort)")
    click.echo(f"the whole demo took {time.monotonic() - begun:.0f} s")
    sys.exit(0 if all(verdict.holds for verdict in findings.verdicts(found)) else 1)


def _give_to_the_caller(runs: Path) -> None:
    """Under sudo the record belongs to whoever called."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group:
        for path in (runs, *runs.rglob("*")):
            os.chown(path, int(user), int(group))


if __name__ == "__main__":
    main()
