"""Transfer times of reserved flows beside heavy cross-traffic, and the throughput that best effort has beside them.

Four edges of the metro map send a 1 MB segment each, all at the same instants, over a bottleneck that carries a UDP
flood of 150 % of its rate: reserved, then as best effort; then reserved beside TCP instead of the flood.
The ideal time of a transfer is encoded bytes / reserved rate.

    sudo .venv/bin/python bench/determinism.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from harness import report
from emulation.cross_traffic import Flood, bottleneck_bps
from emulation.network import Emulation, EmulationSettings
from emulation.session import emulate
from machine.errors import EmulationError
from machine.quantile import quantile
from machine.stall_watch import StallWatch, describe_stalls
from topologies.map_file.loader import map_path
from trainer.transport.pacing import BURST_BYTES, pace_bytes_per_s

SEGMENT_BYTES = 1_000_000
RESERVED_SHARE = 0.1875
"""Share of the bottleneck reserved for each of the four edges: together three quarters."""
PERIOD_S = 0.75
FLOOD_SHARE = 1.5
CLOUD_PORT, FIRST_EDGE_PORT = 7800, 7801
SETTLE_S = 2.0
LEAD_S = 8.0
"""Time that the senders need for their imports."""
BEST_EFFORT_LIMIT_S = {True: 20.0, False: 90.0}


@dataclass
class Phase:
    """Measurements of one phase. `spread_ms`: time between the first and last arrival of each instant."""

    name: str
    ideal_ms: float
    bound_ms: dict[str, float] | None
    others_bps: float = 0.0
    residual_bps: float = 0.0
    measured_ms: dict[str, list[float]] = field(default_factory=dict)
    spread_ms: list[float] = field(default_factory=list)
    unfinished_ms: list[float] = field(default_factory=list)

    @property
    def all_ms(self) -> list[float]:
        """Times of all transfers; an abandoned transfer counts with the time until then."""
        return [value for values in self.measured_ms.values() for value in values] + self.unfinished_ms

    @property
    def kept(self) -> int:
        """Number of transfers within their bound."""
        bounds = self.bound_ms or {}
        return sum(value <= bounds[edge] for edge in bounds for value in self.measured_ms[edge])

    def over_ideal(self, share: float) -> float:
        """A quantile of the transfer time as a multiple of the ideal."""
        return quantile(self.all_ms, share) / self.ideal_ms


class DeterminismBench:
    """The emulation under test, and a client for its controller."""

    def __init__(self, emulation: Emulation, api: httpx.Client) -> None:
        self.emulation = emulation
        self.topology = emulation.topology
        self.api = api
        self.edges = [edge.name for edge in self.topology.edges]
        self.bottleneck_bps = bottleneck_bps(self.topology)
        self.reserved_bps = int(self.bottleneck_bps * RESERVED_SHARE)

    def phase(self, name: str, count: int, reserved: bool, tcp: bool = False, limit_s: float = 3600.0) -> Phase:
        """Run `count` transfers of every edge beside cross-traffic, or those that end within `limit_s`."""
        reservation = self._reserve() if reserved else None
        try:
            with Flood(self.emulation, FLOOD_SHARE, tcp) as flood:
                phase = self._measure(name, count, reservation, flood, limit_s)
        finally:
            if reservation is not None:
                self.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()
        taken = self.reserved_bps * len(self.edges) if reserved else 0
        phase.residual_bps = self.bottleneck_bps - taken
        return phase

    def _measure(
        self, name: str, count: int, reservation: dict[str, Any] | None, flood: Flood, limit_s: float
    ) -> Phase:
        out = self.emulation.vswitch.directory / "received.json"
        receiver = self._start("cloud", "receive", "--port", CLOUD_PORT, "--senders", len(self.edges), "--out", out)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        start_s = time.time() + LEAD_S
        senders = [
            self._start(
                edge, "send", self.topology.ip("cloud"), "--port", CLOUD_PORT, "--source-port", FIRST_EDGE_PORT + index,
                "--segment-bytes", SEGMENT_BYTES, "--count", count, "--start-s", start_s, "--period-s", PERIOD_S,
                "--reserved-bps", self.reserved_bps if reservation else 0, "--limit-s", limit_s,
            )
            for index, edge in enumerate(self.edges)
        ]  # fmt: skip
        time.sleep(max(0.0, start_s + SETTLE_S - time.time()))
        before_bytes, began_s = flood.delivered_bytes(), time.monotonic()
        time.sleep(max(0.5, min(limit_s, count * PERIOD_S) - SETTLE_S - 0.5))
        others_bps = (flood.delivered_bytes() - before_bytes) * 8 / (time.monotonic() - began_s)
        abandoned = [_wait(sender, limit_s) for sender in senders]
        if any(abandoned):
            receiver.terminate()  # data of abandoned transfers may be in flight for minutes
        _wait(receiver, limit_s)
        phase = self._read(name, json.loads(out.read_text()), reservation, others_bps)
        phase.unfinished_ms = [float(text) for text in abandoned if text]
        return phase

    def _read(
        self, name: str, received: dict[str, list[list[float]]], reservation: dict[str, Any] | None, others_bps: float
    ) -> Phase:
        by_edge = {edge: received.get(str(FIRST_EDGE_PORT + index), []) for index, edge in enumerate(self.edges)}
        encoded_bytes = next((rows[0][2] for rows in by_edge.values() if rows), SEGMENT_BYTES)
        ideal_ms = encoded_bytes * 8 / self.reserved_bps * 1e3
        paced_ms = encoded_bytes / pace_bytes_per_s(self.reserved_bps, self.topology.mtu_bytes - 52) * 1e3
        bounds = None
        if reservation is not None:
            latency_us = {flow["source"]: flow["accumulated_latency_us"] for flow in reservation["flows"]}
            bounds = {edge: paced_ms + latency_us[edge] / 1e3 for edge in self.edges}
        phase = Phase(name, ideal_ms, bounds, others_bps)
        phase.measured_ms = {edge: [ms for _, ms, _ in rows] for edge, rows in by_edge.items()}
        arrivals = zip(*([sent + ms / 1e3 for sent, ms, _ in rows] for rows in by_edge.values()), strict=False)
        phase.spread_ms = [(max(instant) - min(instant)) * 1e3 for instant in arrivals]
        return phase

    def _start(self, host: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).parent / "harness/transfer_endpoints.py"), *map(str, arguments)]
        return self.emulation.popen_in(host, command, stdout=subprocess.PIPE)

    def _reserve(self) -> dict[str, Any]:
        requirement = {"min_bandwidth_bps": self.reserved_bps, "burst_bytes": BURST_BYTES}
        flows = []
        for index, edge in enumerate(self.edges):
            ports = (FIRST_EDGE_PORT + index, CLOUD_PORT)
            for direction, ends, pair in (("up", (edge, "cloud"), ports), ("down", ("cloud", edge), ports[::-1])):
                match = {"protocol": "tcp", "source_port": pair[0], "destination_port": pair[1]}
                rate = requirement if direction == "up" else {**requirement, "min_bandwidth_bps": 1_000_000}
                flows.append(
                    {"name": f"{edge}-{direction}", "source": ends[0], "destination": ends[1], "match": match,
                     "requirement": rate}
                )  # fmt: skip
        response = self.api.post("/v1/reservations", json={"owner": "bench", "lease_s": 3600, "flows": flows})
        if response.status_code != 201:
            raise EmulationError(f"the reservation was refused: {response.json()['detail']}")
        reservation: dict[str, Any] = response.json()
        reservation["flows"] = [flow for flow in reservation["flows"] if flow["name"].endswith("-up")]
        return reservation


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """Wait for the end of a sender or receiver; return its output."""
    text, _ = process.communicate(timeout=min(limit_s, 3600) + 60)
    if process.returncode:
        raise EmulationError(f"{process.args!r} failed with exit code {process.returncode}")
    return text.decode().strip()


def table_of(phases: list[Phase]) -> Table:
    """Return a table with one row per phase."""
    table = Table("phase", "transfers", "ideal ms", "p50", "p99", "worst", "cv", "spread p50", "within bound",
                  "best effort Mb/s")
    for phase in phases:
        values = phase.all_ms
        kept = f"{phase.kept}/{len(values)}" if phase.bound_ms else "no bound"
        abandoned = f" ({len(phase.unfinished_ms)} abandoned)" if phase.unfinished_ms else ""
        table.add_row(
            phase.name, f"{len(values)}{abandoned}",
            f"{phase.ideal_ms:.0f}",
            *(f"{quantile(values, share):.0f}" for share in (0.5, 0.99, 1.0)),
            f"{_cv(values):.3f}", f"{statistics.median(phase.spread_ms or [0]):.0f}", kept,
            f"{phase.others_bps / 1e6:.1f} of {phase.residual_bps / 1e6:.1f}",
        )  # fmt: skip
    return table


def claims_of(reserved: Phase, best_effort: Phase, beside_tcp: Phase) -> dict[str, report.Claim]:
    """Return the claims of this benchmark."""
    promised = len(reserved.all_ms) + len(beside_tcp.all_ms)
    return {
        "reserved_p99_over_ideal": report.at_most(reserved.over_ideal(0.99), "", 1.05),
        "reserved_cv": report.Claim(_cv(reserved.all_ms), ""),
        "best_effort_p99_over_ideal": report.Claim(best_effort.over_ideal(0.99), ""),
        "promises_kept_share": report.at_least((reserved.kept + beside_tcp.kept) / promised, "", 1.0),
        "best_effort_udp_share": report.at_least(reserved.others_bps / reserved.residual_bps, "", 0.95),
        "best_effort_tcp_share": report.at_least(beside_tcp.others_bps / beside_tcp.residual_bps, "", 0.85),
    }


def _cv(values: list[float]) -> float:
    return float(statistics.pstdev(values) / statistics.fmean(values))


@click.command()
@click.option("--quick", is_flag=True, help="Fewer transfers; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure reserved against best-effort transfers beside a flood."""
    counts = (16, 16) if quick else (300, 80)
    try:
        with (
            emulate(EmulationSettings(map_path("metro"))) as emulation,
            httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}", timeout=30) as api,
            StallWatch() as watch,
        ):
            bench = DeterminismBench(emulation, api)
            reserved = bench.phase("reserved, UDP flood", counts[0], reserved=True)
            limit_s = BEST_EFFORT_LIMIT_S[quick]
            best_effort = bench.phase("best effort, UDP flood", counts[0], reserved=False, limit_s=limit_s)
            beside_tcp = bench.phase("reserved, TCP beside", counts[1], reserved=True, tcp=True)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    phases = [reserved, best_effort, beside_tcp]
    samples: dict[str, object] = {phase.name: asdict(phase) for phase in phases}
    samples["machine_stalls"] = [asdict(stall) for stall in watch.stalls]
    click.echo(describe_stalls(watch.stalls))
    report.publish("determinism", claims_of(reserved, best_effort, beside_tcp), samples, [table_of(phases)], out)


if __name__ == "__main__":
    main()
