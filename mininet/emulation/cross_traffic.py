"""Cross-traffic: a UDP flood between the map's two load hosts, given as a percentage of the bottleneck's rate."""

from __future__ import annotations

import re
import subprocess
import time

from emulation.network import Emulation
from machine.errors import EmulationError
from topologies.maps import Map

START_TIMEOUT_S = 5.0
HEADERS_BYTES = 28
"""IPv4 and UDP. The flood's frames have the full MTU like all others, so that no meter favours either by size."""


def parse_percentage(text: str) -> float:
    """Parse `150%` to 1.5.

    Raises: EmulationError for any other form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if match is None or not 0 < float(match[1]) <= 1000:
        raise EmulationError(f"--cross-traffic {text!r}: give a percentage of the bottleneck's rate, like 150%")
    return float(match[1]) / 100


def bottleneck_bps(topology: Map) -> int:
    """The emulated rate of the link that the cross-traffic fills.

    Raises: EmulationError if the map defines no cross-traffic.
    """
    if topology.cross_traffic is None:
        raise EmulationError(f"map {topology.name} defines no cross_traffic: add source, sink and bottleneck to it")
    ends = set(topology.cross_traffic.bottleneck)
    return next(topology.rate_bps(link) for link in topology.links if set(link.ends) == ends)


class Flood:
    """iperf3 from the map's load source to its sink, within the `with` block: UDP, or TCP flows as fast as they can."""

    def __init__(self, emulation: Emulation, share: float, tcp: bool = False, flows: int = 1) -> None:
        self.emulation = emulation
        self.rate_bps = round(bottleneck_bps(emulation.topology) * share)
        self.tcp = tcp
        self.flows = flows
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Flood:
        topology = self.emulation.topology
        assert topology.cross_traffic is not None
        source, sink = topology.cross_traffic.source, topology.cross_traffic.sink
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(self.emulation.popen_in(sink, ["iperf3", "-s"], **quiet))
        self.emulation.wait_for_listener(sink, 5201)
        load = ["-u", "-l", str(topology.mtu_bytes - HEADERS_BYTES), "-b", str(self.rate_bps)]
        kind = ["-C", "cubic"] if self.tcp else load
        client = ["iperf3", "-c", topology.ip(sink), "-t", "0", "-P", str(self.flows), *kind]
        self.processes.append(self.emulation.popen_in(source, client, **quiet))
        self._wait_until_delivered(sink)
        return self

    def __exit__(self, *reason: object) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(5)
        self.processes.clear()

    def delivered_bytes(self) -> int:
        """L2 bytes received by the sink's interface so far."""
        cross = self.emulation.topology.cross_traffic
        assert cross is not None
        text = self.emulation.run_in(cross.sink, f"cat /sys/class/net/{cross.sink}-eth1/statistics/rx_bytes")
        return int(text)

    def _wait_until_delivered(self, sink: str) -> None:
        before, deadline = self.delivered_bytes(), time.monotonic() + START_TIMEOUT_S
        while self.delivered_bytes() - before < 200_000:
            if self.processes[-1].poll() is not None or time.monotonic() > deadline:
                raise EmulationError(f"the cross-traffic does not reach {sink}; check that the controller is running")
            time.sleep(0.05)
