"""Hours of churn: does the controller keep its memory, descriptors, threads, ledger and response times?

Six switches of real Open vSwitch of the optical map `waves`. New reservations at 50 per second, each released after a
second or two; every 20 s a span is cut or repaired, every 45 s a switch restarts with empty tables. Samples of the
process every 5 s; slopes over what follows the warm-up (a quarter of the time), with their 95 % confidence interval.

Ended reservations are deleted after three minutes here. The audit log grows as long as `--audit-days` says, so the size
of the ledger's file is given without a goal, the number of its reservations with one.

    .venv/bin/python bench/soak.py [--quick] [--minutes N] [--out FILE.json]
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.dummy_switches import DummySwitches, free_port
from control_plane.switch_row import wait_until_in_sync
from emulation.controller_process import ControllerProcess
from emulation.open_vswitch import set_controller_command
from machine.quantile import quantile
from topologies.map_file.loader import load_map, map_path
from topologies.maps import Map

RATE_PER_S = 50
CLIENTS = 4
LIVE_S = (1.0, 2.0)
SAMPLE_S, CUT_S, SWITCH_RESTART_S = 5.0, 20.0, 45.0
RETENTION_DAYS = 0.002
WARM_UP_SHARE = 0.25
EXPECTED = frozenset({"no_path", "no_capacity", "no_spectrum", "latency_not_met", "no_buffer", "flow_in_use",
                      "no_disjoint_path", "switch_down", "switch_timeout", "overloaded"})  # fmt: skip
"""Answers that cuts and restarts of switches, or a full network, may cause; any other is an error of ours."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment (seconds since the start), and the requests since the sample before."""

    at_s: float
    memory_mib: float
    descriptors: int
    threads: int
    ledger_mib: float
    ledger_reservations: int
    requests: int
    setup_p50_ms: float
    setup_p99_ms: float


@dataclass(slots=True)
class Answers:
    """What clients got; shared by threads."""

    setup_ms: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def take(self) -> list[float]:
        """The setup times since the last call."""
        taken, self.setup_ms = self.setup_ms, []
        return taken


def request_of(plan: Map, rng: random.Random) -> dict[str, Any]:
    """Request body of a random small flow between two hosts."""
    source, destination = rng.sample([node.name for node in plan.nodes if node.kind != "switch"], 2)
    ports = {"source_port": rng.randrange(1024, 65_536), "destination_port": rng.randrange(1024, 65_536)}
    requirement: dict[str, Any] = {"min_bandwidth_bps": rng.randrange(1, 50) * 10_000, "burst_bytes": 20_000}
    if rng.random() < 0.3:
        requirement["protection"] = "link_disjoint"
    flow = {"name": "f", "source": source, "destination": destination, "match": {"protocol": "udp", **ports}}
    return {"flows": [{**flow, "requirement": requirement}], "lease_s": 60}


def churn(url: str, plan: Map, seed: int, answers: Answers, stopping: threading.Event) -> None:
    """Make reservations at the rate of one client, and release them after a while."""
    rng, live = random.Random(seed), deque[tuple[float, str]]()
    with httpx.Client(base_url=url, timeout=60) as api:
        next_s = time.monotonic() + rng.random() * CLIENTS / RATE_PER_S
        while not stopping.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + CLIENTS / RATE_PER_S, time.monotonic() - 1)
            try:
                began_s = time.perf_counter()
                answer = api.post("/v1/reservations", json=request_of(plan, rng))
                answers.setup_ms.append((time.perf_counter() - began_s) * 1e3)
                answers.codes[answer.json().get("code", "made")] += 1
                if answer.status_code == 201:
                    live.append((time.monotonic() + rng.uniform(*LIVE_S), answer.json()["id"]))
                while live and live[0][0] <= time.monotonic():
                    released = api.delete(f"/v1/reservations/{live.popleft()[1]}")
                    answers.codes[released.json().get("code", "released")] += 1
            except httpx.TransportError as error:
                answers.codes[type(error).__name__] += 1


class Faults:
    """Cuts and repairs spans, and restarts switches."""

    def __init__(self, switches: DummySwitches, openflow_port: int) -> None:
        self._switches, self._openflow_port, self._rng = switches, openflow_port, random.Random(7)
        names = {node.name for node in switches.plan.switches}
        self._spans = [link.ends for link in switches.plan.links if set(link.ends) <= names]
        self._cut: tuple[str, str] | None = None

    def cut_or_repair(self) -> None:
        """Repair the span that is cut, or cut one."""
        span = self._cut or self._rng.choice(self._spans)
        self._switches.set_span(span, up=self._cut is not None)
        self._cut = None if self._cut else span

    def restart_switch(self) -> None:
        """Disconnect a switch, empty its tables and connect it again."""
        name = self._rng.choice(self._switches.plan.switches).name
        self._switches.vsctl("set-controller", name, "tcp:127.0.0.1:1")
        for command in ("del-flows", "del-groups", "del-meters"):
            self._switches.ofctl(command, name)
        self._switches.vsctl(*set_controller_command(name, f"tcp:127.0.0.1:{self._openflow_port}"))


def sample_of(pid: int, ledger: Path, at_s: float, answers: Answers) -> Sample:
    """The state of the process and its ledger."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    with closing(sqlite3.connect(ledger)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
    size = sum(path.stat().st_size for path in ledger.parent.glob(f"{ledger.name}*"))
    took_ms = answers.take() or [0.0]
    return Sample(
        at_s, int(status["VmRSS"].split()[0]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]), size / 2**20, rows, len(took_ms), quantile(took_ms, 0.5), quantile(took_ms, 0.99),
    )  # fmt: skip


def slope_per_min(samples: Sequence[Sample], quantity: str) -> tuple[float, float]:
    """The slope of a quantity per minute by least squares, and the half-width of its 95 % confidence interval.

    Successive samples depend on each other, so the interval is that of ten means of equal parts of the time.
    """
    parts = [samples[n * len(samples) // 10 : (n + 1) * len(samples) // 10] for n in range(10)]
    at_min = [statistics.fmean(each.at_s for each in part) / 60 for part in parts]
    values = [statistics.fmean(getattr(each, quantity) for each in part) for part in parts]
    line = statistics.linear_regression(at_min, values)
    squares = sum((value - line.slope * at - line.intercept) ** 2 for at, value in zip(at_min, values, strict=True))
    spread = sum((at - statistics.fmean(at_min)) ** 2 for at in at_min)
    return line.slope, report.STUDENT_T_95[7] * (squares / 8 / spread) ** 0.5


def soak(minutes: float) -> tuple[list[Sample], Counter[str], str]:
    """Run the churn; the samples, the answers by code, and the controller's log."""
    plan = load_map("waves")
    with tempfile.TemporaryDirectory() as name:
        directory, switches = Path(name), DummySwitches(plan, Path(name))
        openflow, rest = (("127.0.0.1", free_port()) for _ in range(2))
        ledger = directory / "ledger.db"
        controller = ControllerProcess(
            map_path("waves"), openflow, [rest], f"sqlite:///{ledger}", directory / "controller.log",
            options=["--reservation-days", str(RETENTION_DAYS)],
        )  # fmt: skip
        stopping, answers, samples = threading.Event(), Answers(), list[Sample]()
        clients = [
            threading.Thread(target=churn, args=(controller.url, plan, seed, answers, stopping))
            for seed in range(CLIENTS)
        ]
        try:
            switches.connect(openflow[1])
            with httpx.Client(base_url=controller.url, timeout=60) as api:
                wait_until_in_sync(controller, api)
            faults, began_s = Faults(switches, openflow[1]), time.monotonic()
            for client in clients:
                client.start()
            due = {faults.cut_or_repair: CUT_S, faults.restart_switch: SWITCH_RESTART_S}
            intervals = dict(due)
            while (at_s := time.monotonic() - began_s) < minutes * 60:
                controller.check_running()
                samples.append(sample_of(controller.process.pid, ledger, at_s, answers))
                for action in [action for action, due_s in due.items() if due_s <= at_s]:
                    action()
                    due[action] += intervals[action]
                time.sleep(max(0.0, began_s + len(samples) * SAMPLE_S - time.monotonic()))
        finally:
            stopping.set()
            for client in clients:
                if client.is_alive():
                    client.join()
            log = controller.log.read_text()
            controller.stop()
            switches.stop()
    return samples, answers.codes, log


@click.command()
@click.option("--quick", is_flag=True, help="30 minutes instead of 2 hours.")
@click.option("--minutes", type=click.FloatRange(1), help="Another duration.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, minutes: float | None, out: Path | None) -> None:
    """Measure the slopes of the controller's resources under churn."""
    minutes = minutes or (30 if quick else 120)
    samples, codes, log = soak(minutes)
    warm = [each for each in samples if each.at_s >= WARM_UP_SHARE * minutes * 60]
    ours = sum(count for code, count in codes.items() if code not in EXPECTED | {"made", "released", "not_found"})
    first, last = warm[: len(warm) // 3], warm[-len(warm) // 3 :]
    p99 = [statistics.median(each.setup_p99_ms for each in part) for part in (first, last)]
    claims = {
        "minutes": report.Claim(minutes, "min"),
        "reservations_made": report.Claim(codes["made"], ""),
        "errors_of_ours": report.at_most(ours, "", 0),
        "tracebacks": report.at_most(log.count("Traceback"), "", 0),
        "setup_p99_last_over_first": report.at_most(p99[1] / max(p99[0], 0.1), "", 1.5),
    }
    table = Table("quantity", "at the warm-up's end", "at the end", "slope per minute", "+-")
    for quantity, allowed in (("memory_mib", 0.5), ("descriptors", 0.1), ("threads", 0.1),
                              ("ledger_reservations", 5.0), ("ledger_mib", None)):  # fmt: skip
        slope, half = slope_per_min(warm, quantity)
        value = max(0.0, slope - half)
        unit = "1/min"
        claims[f"{quantity}_slope"] = report.Claim(slope, unit)
        if allowed is not None:
            claims[f"{quantity}_growth"] = report.at_most(value, unit, allowed)
        ends = (f"{getattr(each, quantity):.1f}" for each in (warm[0], warm[-1]))
        table.add_row(quantity, *ends, f"{slope:+.3f}", f"{half:.3f}")
    report.publish("soak", claims, {"samples": [asdict(each) for each in samples], "codes": dict(codes)}, [table], out)


if __name__ == "__main__":
    main()
