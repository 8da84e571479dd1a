"""Cross-traffic: a UDP flood between the map's two load hosts, stated as a percentage of the bottleneck's rate."""

from __future__ import annotations

import re
import subprocess
import time

from emulation.network import Emulation
from machine.errors import EmulationError
from topologies.maps import Map

START_TIMEOUT_S = 5.0
HEADERS_BYTES = 28
"""IPv4 and UDP: the flood's frames are as large as all others, so that no meter prefers one for its size."""


def parse_percentage(text: str) -> float:
    """`150%` → 1.5.

    Raises: EmulationError if it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if match is None or not 0 < float(match[1]) <= 1000:
        raise EmulationError(f"cross-traffic {text!r}: give a share of the bottleneck's rate, like 150%")
    return float(match[1]) / 100


def bottleneck_bps(plan: Map) -> int:
    """The emulated rate of the link that the cross-traffic is meant to fill.

    Raises: EmulationError if the map names no cross-traffic.
    """
    if plan.cross_traffic is None:
        raise EmulationError(f"map {plan.name} names no cross_traffic: add source, sink and bottleneck to it")
    ends = set(plan.cross_traffic.bottleneck)
    return next(plan.rate_bps(link) for link in plan.links if set(link.ends) == ends)


class Flood:
    """iperf3 from the map's load source to its sink, as long as the `with` block lasts."""

    def __init__(self, emulation: Emulation, share: float, tcp: bool = False) -> None:
        self.emulation = emulation
        self.rate_bps = round(bottleneck_bps(emulation.plan) * share)
        self.tcp = tcp
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Flood:
        plan = self.emulation.plan
        assert plan.cross_traffic is not None
        source, sink = plan.cross_traffic.source, plan.cross_traffic.sink
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(self.emulation.popen_in(sink, ["iperf3", "-s"], **quiet))
        self.emulation.wait_for_listener(sink, 5201)
        load = ["-u", "-l", str(plan.mtu_bytes - HEADERS_BYTES), "-b", str(self.rate_bps)]
        client = ["iperf3", "-c", plan.ip(sink), "-t", "0", *(["-C", "cubic"] if self.tcp else load)]
        self.processes.append(self.emulation.popen_in(source, client, **quiet))
        self._wait_until_it_flows(sink)
        return self

    def __exit__(self, *reason: object) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.wait(5)
        self.processes.clear()

    def delivered_bytes(self) -> int:
        """L2 bytes that have reached the sink's interface so far."""
        cross = self.emulation.plan.cross_traffic
        assert cross is not None
        text = self.emulation.run_in(cross.sink, f"cat /sys/class/net/{cross.sink}-eth1/statistics/rx_bytes")
        return int(text)

    def _wait_until_it_flows(self, sink: str) -> None:
        before, deadline = self.delivered_bytes(), time.monotonic() + START_TIMEOUT_S
        while self.delivered_bytes() - before < 200_000:
            if self.processes[-1].poll() is not None or time.monotonic() > deadline:
                raise EmulationError(f"the cross-traffic does not reach {sink}: is a controller forwarding?")
            time.sleep(0.05)
