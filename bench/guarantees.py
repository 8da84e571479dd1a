"""Is every transfer within its proven bound, whatever else goes on, and are the bounds tight enough to be of use?

Four edges of the metro map send segments at common instants, phase after phase: at other rates and sizes, beside no
load, a UDP flood of 60 % or 150 % of the bottleneck, or TCP, while further reservations come and go. The bound of a
transfer is its encoded bytes over its pace plus the `accumulated_latency_us` that the controller tells meanwhile.

Then windows: the same transfers once a period, reserved for half of every period and reserved all the time; how much
best effort gets beside each.

    sudo .venv/bin/python bench/guarantees.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

import click
import httpx
import report
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "mininet"))

from emulation import Emulation, Settings
from problems import EmulationError
from session import emulate
from stalls import Stall, StallWatch, describe
from topologies.loader import map_path
from traffic import Flood
from trainer.pacing import BURST_BYTES, pace_bytes_per_s, wire_bits

CLOUD_PORT, FIRST_EDGE_PORT, OTHER_PORT = 7800, 7801, 7900
LEAD_S = 0.4
TCP_HEADERS_BYTES = 52
ENCODED_MORE_BYTES = 1000
"""Above what a frame's header adds to a segment."""
MBPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Phase:
    """What goes on for a while. `load`: best effort beside it, as a share of the bottleneck; `rates_mbps` by edge."""

    name: str
    load: float | None
    tcp: bool
    rates_mbps: tuple[int, int, int, int]
    segment_bytes: int


PHASES = (
    Phase("no load", None, False, (15, 15, 15, 15), 1_000_000),
    Phase("UDP 150 %", 1.5, False, (15, 15, 15, 15), 1_000_000),
    Phase("UDP 60 %, others' rates", 0.6, False, (8, 12, 16, 20), 800_000),
    Phase("TCP", 1.0, True, (15, 10, 15, 10), 800_000),
    Phase("UDP 150 %, small segments", 1.5, False, (12, 12, 12, 12), 300_000),
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """While what is reserved stays the same: the latency in us told for each edge."""

    begin_s: float
    end_s: float
    latency_us: dict[str, float]


@dataclass(frozen=True, slots=True)
class Transfer:
    """One measured transfer and its bound; `stalled`: the machine itself stood still meanwhile."""

    phase: str
    edge: str
    sent_s: float
    measured_ms: float
    bound_ms: float
    stalled: bool = False

    @property
    def kept(self) -> bool:
        """Whether it was within its bound."""
        return self.measured_ms <= self.bound_ms


class Bench:
    """The emulation, a client of its controller, and senders and receiver that run all the time."""

    def __init__(self, emulation: Emulation, api: httpx.Client) -> None:
        self.emulation = emulation
        self.plan = emulation.plan
        self.api = api
        self.edges = [edge.name for edge in self.plan.edges]
        self.out = emulation.vswitch.directory / "received.json"
        self.sent: list[tuple[Phase, str, float, int, list[Epoch]]] = []
        self.senders: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Receiver and senders are connected within the block; after it everything has been received."""
        where = ("--port", CLOUD_PORT, "--senders", len(self.edges), "--out", self.out)
        receiver = self._start("cloud", "receive", *where)
        _wait_for_line(receiver)
        for index, edge in enumerate(self.edges):
            ports = ("--port", CLOUD_PORT, "--source-port", FIRST_EDGE_PORT + index)
            self.senders[edge] = self._start(edge, "follow", self.plan.ip("cloud"), *ports)
        for sender in self.senders.values():
            _wait_for_line(sender)
        yield
        for process in (*self.senders.values(), receiver):
            if process.stdin and process is not receiver:
                process.stdin.close()
            if process.wait(60):
                raise EmulationError(f"{process.args!r} failed with exit code {process.returncode}")

    def phase(self, phase: Phase, count: int) -> None:
        """`count` transfers of every edge; in the middle third another flow is reserved too."""
        with self._reserved(self._flows(phase)) as reservation, self._load(phase):
            asked_s = time.time()
            epochs: list[Epoch] = []
            start_s, period_s = time.time() + LEAD_S, self._period_s(phase)
            self._tell(phase, [start_s + number * period_s for number in range(count)], epochs)
            _sleep_until(start_s + count * period_s / 3)
            latency_us, changed_s = self._told(reservation), time.time()
            with self._reserved([self._other_flow()]):
                epochs.append(Epoch(asked_s, time.time(), latency_us))
                latency_us = self._told(reservation)
                _sleep_until(start_s + count * period_s * 2 / 3)
                begun_s, changed_s = changed_s, time.time()
            epochs.append(Epoch(begun_s, time.time(), latency_us))
            epochs.append(Epoch(changed_s, inf, self._told(reservation)))
            _sleep_until(start_s + count * period_s + 0.5)

    def _tell(self, phase: Phase, moments_s: Sequence[float], epochs: list[Epoch]) -> None:
        for edge, rate in zip(self.edges, phase.rates_mbps, strict=True):
            stdin = self.senders[edge].stdin
            assert stdin is not None
            for moment_s in moments_s:
                self.sent.append((phase, edge, moment_s, rate * MBPS, epochs))
                told = {"start_s": moment_s, "segment_bytes": phase.segment_bytes, "reserved_bps": rate * MBPS}
                stdin.write(json.dumps(told).encode() + b"\n")
            stdin.flush()

    def _period_s(self, phase: Phase) -> float:
        return phase.segment_bytes * 8 / (min(phase.rates_mbps) * MBPS) * 1.1 + 0.06

    def _flows(self, phase: Phase) -> list[dict[str, Any]]:
        flows = []
        for index, (edge, rate) in enumerate(zip(self.edges, phase.rates_mbps, strict=True)):
            ports = (FIRST_EDGE_PORT + index, CLOUD_PORT)
            up = {"min_bandwidth_bps": rate * MBPS, "burst_bytes": BURST_BYTES}
            down = {"min_bandwidth_bps": MBPS, "burst_bytes": BURST_BYTES}
            flows.append(_flow(f"{edge}-up", edge, "cloud", ports, up))
            flows.append(_flow(f"{edge}-down", "cloud", edge, ports[::-1], down))
        return flows

    def _other_flow(self) -> dict[str, Any]:
        cross = self.plan.cross_traffic
        assert cross is not None
        requirement = {"min_bandwidth_bps": 4 * MBPS, "burst_bytes": 18_028}
        return _flow("other", cross.source, cross.sink, (OTHER_PORT, OTHER_PORT), requirement, "udp")

    def _told(self, reservation: dict[str, Any]) -> dict[str, float]:
        answer = self.api.get(f"/v1/reservations/{reservation['id']}").raise_for_status().json()
        return {
            flow["source"]: flow["accumulated_latency_us"] for flow in answer["flows"] if flow["name"].endswith("-up")
        }

    @contextlib.contextmanager
    def _reserved(self, flows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        answer = self.api.post("/v1/reservations", json={"owner": "bench", "lease_s": 3600, "flows": flows})
        if answer.status_code != 201:
            raise EmulationError(f"a reservation was refused: {answer.json().get('detail', answer.text)}")
        reservation: dict[str, Any] = answer.json()
        yield reservation
        self.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()

    def _load(self, phase: Phase) -> contextlib.AbstractContextManager[Flood | None]:
        return Flood(self.emulation, phase.load, phase.tcp) if phase.load else contextlib.nullcontext()

    def windows(self, count: int) -> tuple[float, float]:
        """Best effort in bit/s beside periodic transfers: reserved in windows of half the period, and all the time."""
        phase = Phase("windows of half a period", 1.5, False, (0, 0, 0, 0), 700_000)
        mss_bytes = self.plan.mtu_bytes - TCP_HEADERS_BYTES
        needed = ceil(wire_bits(phase.segment_bytes + ENCODED_MORE_BYTES, mss_bytes) / 8)
        periodic = {"transfer_bytes": needed, "deadline_ms": 500, "period_ms": 1000, "offset_ms": 0}
        flows = self._flows(Phase("", None, False, (1, 1, 1, 1), 1))
        for flow in flows:
            if flow["name"].endswith("-up"):
                flow["requirement"] = {**periodic, "burst_bytes": BURST_BYTES}
        with self._reserved(flows) as reservation, Flood(self.emulation, 1.5) as flood:
            ups = [flow for flow in reservation["flows"] if flow["name"].endswith("-up")]
            rates = {flow["source"]: flow["reserved_bps"] for flow in ups}
            in_windows_bps = self._periodic(phase, count, rates, flood, reservation)
        for flow in flows:
            if flow["name"].endswith("-up"):
                rate_bps = rates[flow["source"]]
                flow["requirement"] = {"min_bandwidth_bps": rate_bps, "burst_bytes": BURST_BYTES}
        phase = Phase("the same, reserved all the time", 1.5, False, (0, 0, 0, 0), 700_000)
        with self._reserved(flows) as reservation, Flood(self.emulation, 1.5) as flood:
            return in_windows_bps, self._periodic(phase, count, rates, flood, reservation)

    def _periodic(
        self, phase: Phase, count: int, rates: dict[str, int], flood: Flood, reservation: dict[str, Any]
    ) -> float:
        first_s = ceil(time.time() + 1)
        epochs = [Epoch(0, inf, self._told(reservation))]
        for edge in self.edges:
            stdin = self.senders[edge].stdin
            assert stdin is not None
            for number in range(count):
                self.sent.append((phase, edge, first_s + number, rates[edge], epochs))
                told = {"segment_bytes": phase.segment_bytes, "reserved_bps": rates[edge]}
                stdin.write(json.dumps({**told, "start_s": first_s + number}).encode() + b"\n")
            stdin.flush()
        _sleep_until(first_s)
        before, begun_s = flood.delivered_bytes(), time.monotonic()
        _sleep_until(first_s + count)
        return (flood.delivered_bytes() - before) * 8 / (time.monotonic() - begun_s)

    def transfers(self, stalls: Sequence[Stall]) -> list[Transfer]:
        """Everything that was sent, with what was received; one that never came has taken infinitely long."""
        received = json.loads(self.out.read_text())
        rows = {edge: list(received.get(str(FIRST_EDGE_PORT + i), [])) for i, edge in enumerate(self.edges)}
        found = []
        for phase, edge, start_s, rate_bps, epochs in self.sent:
            sent_s, measured_ms, size = rows[edge].pop(0) if rows[edge] else (start_s, inf, phase.segment_bytes)
            end_s = sent_s + measured_ms / 1e3
            paced_s = size / pace_bytes_per_s(rate_bps, self.plan.mtu_bytes - TCP_HEADERS_BYTES)
            latency_us = max(
                epoch.latency_us[edge] for epoch in epochs if epoch.begin_s < end_s and sent_s < epoch.end_s
            )
            bound_ms = paced_s * 1e3 + latency_us / 1e3
            stalled = any(stall.overlaps(sent_s, end_s) for stall in stalls)
            found.append(Transfer(phase.name, edge, sent_s, measured_ms, bound_ms, stalled))
        return found

    def _start(self, host: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("transfers.py")), *map(str, arguments)]
        return self.emulation.popen_in(host, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _flow(
    name: str, source: str, destination: str, ports: Sequence[int], requirement: dict[str, Any], protocol: str = "tcp"
) -> dict[str, Any]:
    match = {"protocol": protocol, "source_port": ports[0], "destination_port": ports[1]}
    return {"name": name, "source": source, "destination": destination, "match": match, "requirement": requirement}


def _wait_for_line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if not process.stdout.readline():
        raise EmulationError(f"{process.args!r} did not start")


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.time()))


def table_of(transfers: Sequence[Transfer]) -> Table:
    """One row a phase."""
    table = Table("phase", "transfers", "median ms", "worst ms", "bound ms", "bound / worst", "late", "late in a stall")
    for name in dict.fromkeys(transfer.phase for transfer in transfers):
        own = [transfer for transfer in transfers if transfer.phase == name]
        late = [transfer for transfer in own if not transfer.kept]
        table.add_row(
            name, str(len(own)), f"{statistics.median(t.measured_ms for t in own):.0f}",
            f"{max(t.measured_ms for t in own):.0f}", f"{statistics.median(t.bound_ms for t in own):.0f}",
            f"{statistics.median(ratios_of(own) or [math.nan]):.3f}", str(len(late)), str(sum(t.stalled for t in late)),
        )  # fmt: skip
    return table


def ratios_of(transfers: Sequence[Transfer]) -> list[float]:
    """For every flow of every phase: its median bound over its worst transfer.

    Only of transfers during which the machine ran: one that it held up would make the bound look tight.
    """
    transfers = [transfer for transfer in transfers if not transfer.stalled]
    flows = dict.fromkeys((transfer.phase, transfer.edge) for transfer in transfers)
    ratios = []
    for phase, edge in flows:
        own = [transfer for transfer in transfers if (transfer.phase, transfer.edge) == (phase, edge)]
        worst_ms = max(transfer.measured_ms for transfer in own)
        ratios.append(statistics.median(transfer.bound_ms for transfer in own) / worst_ms)
    return ratios


def claims_of(transfers: Sequence[Transfer], best_effort_bps: tuple[float, float]) -> dict[str, report.Claim]:
    """The figures that the README may quote."""
    late = [transfer for transfer in transfers if not transfer.kept]
    in_windows_bps, all_the_time_bps = best_effort_bps
    tightness = statistics.median(ratios_of(transfers) or [math.inf])
    return {
        "transfers": report.Claim(len(transfers), ""),
        "violations": report.at_most(len(late), "", 0),
        "violations_in_machine_stalls": report.Claim(sum(transfer.stalled for transfer in late), ""),
        "median_bound_over_worst_measured": report.at_most(tightness, "", 1.25),
        "window_gain": report.at_least(in_windows_bps / all_the_time_bps, "x", 1.5),
    }


@click.command()
@click.option("--quick", is_flag=True, help="About two hundred transfers; about a minute and a half.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure transfers against their proven bounds on real Open vSwitch."""
    each, periods, repeats = (8, 8, 1) if quick else (30, 40, 3)
    try:
        with (
            emulate(Settings(map_path("metro"))) as emulation,
            httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}", timeout=30) as api,
        ):
            bench = Bench(emulation, api)
            with StallWatch() as watch, bench.running():
                for _ in range(repeats):
                    for phase in PHASES:
                        bench.phase(phase, each)
                best_effort_bps = bench.windows(periods)
            transfers = bench.transfers(watch.stalls)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    samples: dict[str, object] = {
        "transfers": [asdict(transfer) for transfer in transfers],
        "best_effort_bps": {"windows": best_effort_bps[0], "all_the_time": best_effort_bps[1]},
        "machine_stalls": [asdict(stall) for stall in watch.stalls],
    }
    click.echo(describe(watch.stalls))
    report.publish("guarantees", claims_of(transfers, best_effort_bps), samples, [table_of(transfers)], out)


if __name__ == "__main__":
    main()
