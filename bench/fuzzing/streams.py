"""The fuzzer's senders and receivers in the hosts of a running emulation."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing import endpoints
from fuzzing.oracle import Arrival
from machine.errors import EmulationError
from topologies.maps import Map
from topologies.running_emulation import RunningEmulation

SCRIPT = str(Path(endpoints.__file__))
IN_FLIGHT_S = 1.5
"""Time after the last datagram until everything has arrived."""
EXIT_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Shape:
    """How a sender sends: see endpoints.py. `window`: period, offset and length in seconds."""

    rate_bps: float
    burst_bytes: float
    frame_bytes: int
    pattern: str
    window: tuple[float, float, float] | None = None


class Streams:
    """One sender and one receiver in every host; `start` and `stop` streams of flows by number."""

    def __init__(self, topology: Map, note: RunningEmulation, directory: Path) -> None:
        self._topology = topology
        self._note = note
        self._directory = directory
        self._senders: dict[str, subprocess.Popen[bytes]] = {}
        self._receivers: dict[str, subprocess.Popen[bytes]] = {}
        self.sent: dict[int, int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run senders and receivers within the block; afterwards `sent` and `arrivals` are complete."""
        try:
            for host in self._topology.hosts:
                self._receivers[host.name] = self._spawn(host.name, "receive", str(self._out(host.name)))
                self._senders[host.name] = self._spawn(host.name, "send")
            yield
            for sender in self._senders.values():
                output, _ = sender.communicate(timeout=EXIT_TIMEOUT_S)
                self.sent |= {int(flow): count for flow, count in json.loads(output).items()}
            time.sleep(IN_FLIGHT_S)
            for receiver in self._receivers.values():
                receiver.communicate(timeout=EXIT_TIMEOUT_S)
        finally:
            for process in (*self._senders.values(), *self._receivers.values()):
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()

    def _out(self, host: str) -> Path:
        return self._directory / f"arrivals-{host}.bin"

    def _spawn(self, host: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["mnexec", "-a", str(self._note.host(host).pid), sys.executable, SCRIPT, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise EmulationError(f"the fuzzer's endpoint in {host} did not start")
        return process

    def start(self, flow: int, ends: tuple[str, str], source_port: int, shape: Shape) -> None:
        """Start the stream of a flow, or give it another shape."""
        self._command(
            ends[0],
            {
                "flow": flow, "address": self._topology.ip(ends[1]), "port": endpoints.PORT,
                "source_port": source_port, "rate_bps": shape.rate_bps, "burst_bytes": shape.burst_bytes,
                "frame_bytes": shape.frame_bytes, "pattern": shape.pattern, "window": shape.window,
                "until_s": time.time() + 86_400,
            },
        )  # fmt: skip

    def stop(self, flow: int, source: str) -> None:
        """Stop the stream of a flow."""
        self._command(source, {"flow": flow, "rate_bps": 0})

    def _command(self, host: str, command: dict[str, Any]) -> None:
        stdin = self._senders[host].stdin
        assert stdin is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()

    def arrivals(self) -> dict[int, list[Arrival]]:
        """All arrivals by flow, in order."""
        by_flow: dict[int, list[Arrival]] = {}
        for host in self._topology.hosts:
            for record in endpoints.RECORD.iter_unpack(self._out(host.name).read_bytes()):
                flow, number, sent_ns, arrived_ns, dscp, frame_bytes = record
                arrival = Arrival(number, sent_ns / 1e9, arrived_ns / 1e9, dscp, frame_bytes)
                by_flow.setdefault(flow, []).append(arrival)
        return by_flow
