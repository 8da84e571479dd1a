"""The same training beside several kinds of cross-traffic, with and without reservations: round times and what is left.

Both runs have the same steps and, because the other way is out of service, the same paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx

from emulation.cross_traffic import Flood, bottleneck_bps
from emulation.network import Emulation
from machine.errors import EmulationError

PACELINE = [sys.executable, "-m", "trainer.cli.main"]
OTHER_WAY = "r4-r5"
"""The link of map metro that has to go so that each flow has a single path, which is the one of the cross-traffic."""
TRAINING = ["--rounds", "100000", "--average-every", "100000", "--quiet"]
INTERRUPTED = 130
"""Exit code of `paceline train` after Ctrl-C."""

WARM_UP_ROUNDS = 2
WARM_UP_LIMIT_S = 60.0
ROUNDS = 2
LIMIT_S = 12.0
"""Of one kind of cross-traffic, unless so many rounds began and ended in it before."""
SETTLE_S = 0.5
POLL_S = 0.1

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """Cross-traffic: UDP at a share of the bottleneck's rate, or a number of TCP flows; neither: none."""

    title: str
    udp_share: float = 0.0
    tcp_flows: int = 0

    def on(self, emulation: Emulation) -> contextlib.AbstractContextManager[Flood | None]:
        """Return what sends it within a `with` block."""
        if self.tcp_flows:
            return Flood(emulation, 1.0, tcp=True, flows=self.tcp_flows)
        return Flood(emulation, self.udp_share) if self.udp_share else contextlib.nullcontext()

    def offered_bps(self, emulation: Emulation) -> float | None:
        """The rate at which it is sent; None for TCP, which takes what it gets."""
        return None if self.tcp_flows else self.udp_share * bottleneck_bps(emulation.topology)


LOADS = (
    Load("none"), Load("TCP, 1 flow", tcp_flows=1), Load("TCP, 4 flows", tcp_flows=4),
    Load("UDP, 50 %", udp_share=0.5), Load("UDP, 95 %", udp_share=0.95), Load("UDP, 150 %", udp_share=1.5),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Times of the whole rounds beside one kind of cross-traffic, and the rate of it that arrived (None without any).

    `waited_s`: how long a round was in progress when none ended.
    """

    load: Load
    offered_bps: float | None
    rounds_s: tuple[float, ...]
    waited_s: float
    delivered_bps: float | None

    @property
    def round_s(self) -> float | None:
        """Median time of a round; None if none ended."""
        return statistics.median(self.rounds_s) if self.rounds_s else None

    @property
    def round_text(self) -> str:
        """The same with its unit, or how long none ended."""
        return f"> {self.waited_s:.0f} s" if self.round_s is None else f"{self.round_s:.2f} s"


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs: results in the order of LOADS, and the summary of its record."""

    results: tuple[LoadResult, ...]
    summary: dict[str, Any]
    directory: Path


def compare(emulation: Emulation, runs: Path) -> tuple[ComparedRun, ComparedRun]:
    """Run the training with and without reservations beside all loads.

    Raises: EmulationError.
    """
    with _single_path(emulation):
        click.echo("with reservations:")
        reserved = _measure(emulation, runs, [])
        click.echo("without (--best-effort):")
        return reserved, _measure(emulation, runs, ["--best-effort"])


@contextlib.contextmanager
def _single_path(emulation: Emulation) -> Iterator[None]:
    with httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}/v1", timeout=20) as api:
        _take(api, "down")
        try:
            yield
        finally:
            _take(api, "up")


def _take(api: httpx.Client, action: str) -> None:
    try:
        api.post(f"/links/{OTHER_WAY}/{action}").raise_for_status()
    except httpx.HTTPError as error:
        raise EmulationError(f"link {OTHER_WAY} could not be taken {action}: {error}") from error


def _measure(emulation: Emulation, runs: Path, arguments: Sequence[str]) -> ComparedRun:
    with _Run(runs, arguments) as run:
        run.wait_for_rounds(WARM_UP_ROUNDS, time.monotonic() + WARM_UP_LIMIT_S)
        results = tuple(_reported(_beside(load, emulation, run)) for load in LOADS)
    directory = run.directory
    assert directory is not None
    return ComparedRun(results, json.loads((directory / "summary.json").read_text()), directory)


def _reported(result: LoadResult) -> LoadResult:
    click.echo(f"  cross-traffic {result.load.title:<12} {result.round_text} a round")
    return result


def _beside(load: Load, emulation: Emulation, run: _Run) -> LoadResult:
    with load.on(emulation) as flood:
        time.sleep(SETTLE_S)
        begun_s, before = time.time(), flood.delivered_bytes() if flood else 0
        rounds_s = run.rounds_since(begun_s, ROUNDS, time.monotonic() + LIMIT_S)
        lasted_s = time.time() - begun_s
        delivered_bps = (flood.delivered_bytes() - before) * 8 / lasted_s if flood else None
    return LoadResult(load, load.offered_bps(emulation), tuple(rounds_s), lasted_s, delivered_bps)


class _Run:
    """A training run in the background, which is interrupted at the end of the `with` block."""

    def __init__(self, runs: Path, arguments: Sequence[str]) -> None:
        self.directory: Path | None = None
        self._runs = runs
        self._known = set(runs.glob("*"))
        self._arguments = arguments
        self._stopping = threading.Event()

    def __enter__(self) -> _Run:
        command = [*PACELINE, "train", "--runs-dir", str(self._runs), *TRAINING, *self._arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._last_lines: list[str] = []
        self._printing = threading.Thread(target=self._print)
        self._printing.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stopping.set()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        code = self._process.wait()
        self._printing.join()
        if kind is None and code != INTERRUPTED:
            raise EmulationError(f"the training run failed with exit code {code}:\n{''.join(self._last_lines)}")

    def wait_for_rounds(self, count: int, deadline_s: float) -> None:
        """Wait until so many rounds are done.

        Raises: EmulationError at the deadline, or if the run ends.
        """
        while len(self._done()) < count:
            if time.monotonic() > deadline_s:
                raise EmulationError(f"the training run did not finish {count} rounds in {WARM_UP_LIMIT_S:g} s")
            self._pause()

    def rounds_since(self, begun_s: float, count: int, deadline_s: float) -> list[float]:
        """Return the seconds of the rounds that began after that time; at least `count`, or those at the deadline.

        Raises: EmulationError if the run ends.
        """
        while True:
            rounds_s = [event["duration_ms"] / 1e3 for event in self._done()
                        if event["time"] - event["duration_ms"] / 1e3 >= begun_s]
            if len(rounds_s) >= count or time.monotonic() > deadline_s:
                return rounds_s
            self._pause()

    def _pause(self) -> None:
        if self._process.poll() is not None:
            raise EmulationError(f"the training run has ended:\n{''.join(self._last_lines)}")
        time.sleep(POLL_S)

    def _done(self) -> list[Event]:
        self.directory = self.directory or next(iter(set(self._runs.glob("*/")) - self._known), None)
        if self.directory is None or not (events := self.directory / "events.jsonl").exists():
            return []
        lines = [line for line in events.read_text().splitlines() if '"round_done"' in line]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _print(self) -> None:
        """Print the run's lines as they come; those of the intended stop are kept for an error."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last_lines = [*self._last_lines[-11:], line]
            if not self._stopping.is_set():
                click.echo(line, nl=False)
