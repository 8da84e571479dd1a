"""Transfers through a running emulation, each compared with its proven bound, whatever happens to the network.

A receiver in the cloud and a sender on every edge stay connected. The bound of a transfer is its encoded size / pace
plus the `accumulated_latency_us` that the controller reports at that time.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import httpx

from emulation.network import Emulation
from machine.errors import EmulationError
from machine.stall_watch import Stall, stalled_s
from trainer.transport.pacing import BURST_BYTES, pace_bytes_per_s

CLOUD_PORT, FIRST_EDGE_PORT = 7800, 7801
TCP_HEADERS_BYTES = 52
MBPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """An interval with unchanged reservations: the latency bound of each edge's flow in us."""

    begin_s: float
    end_s: float
    latency_us: dict[str, float]


@dataclass(frozen=True, slots=True)
class ScheduledTransfer:
    """A transfer to be made; `phase`: name of the load it is made under."""

    phase: str
    edge: str
    start_s: float
    segment_bytes: int
    reserved_bps: int
    epochs: Sequence[Epoch]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A measured transfer and its bound; `held_up_ms`: proven stall of the machine within it."""

    phase: str
    edge: str
    sent_s: float
    measured_ms: float
    bound_ms: float
    held_up_ms: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether it was within its bound."""
        return self.measured_ms <= self.bound_ms

    @property
    def excused(self) -> bool:
        """Whether its lateness is at most the proven stall of the machine within it."""
        return not self.kept and self.measured_ms - self.bound_ms <= self.held_up_ms

    @property
    def over_bound(self) -> float:
        """Measured time / bound."""
        return self.measured_ms / self.bound_ms


class TimedTransfers:
    """Senders and receiver in a running emulation, the scheduled transfers and their results."""

    def __init__(self, emulation: Emulation, api: httpx.Client) -> None:
        self.emulation = emulation
        self.topology = emulation.topology
        self.api = api
        self.edges = [edge.name for edge in self.topology.edges]
        self.mss_bytes = self.topology.mtu_bytes - TCP_HEADERS_BYTES
        self._out = emulation.vswitch.directory / "received.json"
        self._orders: list[ScheduledTransfer] = []
        self._senders: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep receiver and senders connected within the block; afterwards all transfers have arrived."""
        where = ("--port", CLOUD_PORT, "--senders", len(self.edges), "--out", self._out)
        receiver = self._start("cloud", "receive", *where)
        _wait_for_line(receiver)
        for index, edge in enumerate(self.edges):
            ports = ("--port", CLOUD_PORT, "--source-port", FIRST_EDGE_PORT + index)
            self._senders[edge] = self._start(edge, "follow", self.topology.ip("cloud"), *ports)
        for sender in self._senders.values():
            _wait_for_line(sender)
        yield
        for process in (*self._senders.values(), receiver):
            if process.stdin and process is not receiver:
                process.stdin.close()
            if process.wait(60):
                raise EmulationError(f"{process.args!r} failed with exit code {process.returncode}")

    def schedule(self, orders: Sequence[ScheduledTransfer]) -> None:
        """Schedule transfers; those of one edge must be in the order of their start times."""
        self._orders += orders
        for edge, sender in self._senders.items():
            assert sender.stdin is not None
            for one in orders:
                if one.edge == edge:
                    told = {"start_s": one.start_s, "segment_bytes": one.segment_bytes}
                    sender.stdin.write(json.dumps({**told, "reserved_bps": one.reserved_bps}).encode() + b"\n")
            sender.stdin.flush()

    def flow_requests(self, requirements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A flow from every edge with its requirement, and a thin one back for its acknowledgements."""
        flows = []
        for index, (edge, up) in enumerate(zip(self.edges, requirements, strict=True)):
            ports = (FIRST_EDGE_PORT + index, CLOUD_PORT)
            flows.append(flow_request(f"{edge}-up", (edge, "cloud"), ports, up))
            flows.append(flow_request(f"{edge}-down", ("cloud", edge), ports[::-1], rate_requirement(MBPS)))
        return flows

    @contextlib.contextmanager
    def reserved(self, flows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Reserve these flows within the block.

        Raises: EmulationError if the reservation is refused.
        """
        answer = self.api.post("/v1/reservations", json={"owner": "bench", "lease_s": 3600, "flows": flows})
        if answer.status_code != 201:
            raise EmulationError(f"a reservation was refused: {answer.json().get('detail', answer.text)}")
        reservation: dict[str, Any] = answer.json()
        yield reservation
        self.api.delete(f"/v1/reservations/{reservation['id']}").raise_for_status()

    def latencies_us(self, reservation: dict[str, Any]) -> dict[str, float]:
        """The current latency bound of each edge's uplink flow, in us."""
        answer = self.api.get(f"/v1/reservations/{reservation['id']}").raise_for_status().json()
        return {one["source"]: one["accumulated_latency_us"] for one in answer["flows"] if one["name"].endswith("-up")}

    def results(self, stalls: Sequence[Stall]) -> list[Transfer]:
        """The result of every scheduled transfer; a transfer that has not arrived has taken infinitely long."""
        received = json.loads(self._out.read_text())
        rows = {edge: list(received.get(str(FIRST_EDGE_PORT + i), [])) for i, edge in enumerate(self.edges)}
        found = []
        for one in self._orders:
            own = rows[one.edge]
            sent_s, measured_ms, size_bytes = own.pop(0) if own else (one.start_s, inf, one.segment_bytes)
            end_s = sent_s + measured_ms / 1e3
            paced_s = size_bytes / pace_bytes_per_s(one.reserved_bps, self.mss_bytes)
            latency_us = max(
                epoch.latency_us[one.edge] for epoch in one.epochs if epoch.begin_s < end_s and sent_s < epoch.end_s
            )
            bound_ms = paced_s * 1e3 + latency_us / 1e3
            held_up_ms = stalled_s(stalls, sent_s, end_s) * 1e3
            found.append(Transfer(one.phase, one.edge, sent_s, measured_ms, bound_ms, held_up_ms))
        return found

    def _start(self, host: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("transfer_endpoints.py")), *map(str, arguments)]
        return self.emulation.popen_in(host, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def rate_requirement(rate_bps: int, burst_bytes: int = BURST_BYTES) -> dict[str, Any]:
    """The requirement of a flow with a minimum rate."""
    return {"min_bandwidth_bps": rate_bps, "burst_bytes": burst_bytes}


def flow_request(
    name: str, ends: tuple[str, str], ports: Sequence[int], requirement: dict[str, Any], protocol: str = "tcp"
) -> dict[str, Any]:
    """A flow in the form of the REST API."""
    match = {"protocol": protocol, "source_port": ports[0], "destination_port": ports[1]}
    return {"name": name, "source": ends[0], "destination": ends[1], "match": match, "requirement": requirement}


def sleep_until(moment_s: float) -> None:
    """Sleep until an instant of Unix time."""
    time.sleep(max(0.0, moment_s - time.time()))


def tightness(transfers: Sequence[Transfer]) -> list[float]:
    """For every flow of every phase: its median bound / its worst transfer.

    Without transfers during a stall of the machine: they would make the bound look tighter than it is.
    """
    transfers = [transfer for transfer in transfers if not transfer.held_up_ms]
    ratios = []
    for phase, edge in dict.fromkeys((transfer.phase, transfer.edge) for transfer in transfers):
        own = [transfer for transfer in transfers if (transfer.phase, transfer.edge) == (phase, edge)]
        worst_ms = max(transfer.measured_ms for transfer in own)
        ratios.append(statistics.median(transfer.bound_ms for transfer in own) / worst_ms)
    return ratios


def _wait_for_line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if not process.stdout.readline():
        raise EmulationError(f"{process.args!r} did not start")
