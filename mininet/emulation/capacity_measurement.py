"""Measures how much this machine forwards: a chain of switches, two hosts, more and more frames until many are lost."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import yaml

from emulation.network import Emulation, EmulationSettings
from machine import kernel_settings
from machine.errors import EmulationError
from machine.forwarding_capacity import Capacity, keep, of_points
from topologies.loader import load_map
from topologies.maps import MAX_EMULATED_MBPS

CHAIN = 4
"""Switches; the more, the less the two hosts at the ends count."""
LARGE_BYTES, SMALL_BYTES = 9014, 1014
HEADERS_BYTES = 42
"""Ethernet, IPv4 and UDP."""
RATES_MBPS = (50, 100, 200, 400, MAX_EMULATED_MBPS)
TRIAL_S = 1.0
TRIALS = 2
"""Of each rate the better one counts: a standstill of the machine is not what is measured."""
ENOUGH_LOST = 0.2
BELOW_THE_SWITCH = kernel_settings.REAL_TIME_PRIORITY - 1
"""The two hosts go before whatever else runs on this machine, as the switches do: only these are measured."""


def measure(say: Callable[[str], None]) -> Capacity:
    """Measure it, and keep it for all later starts. Takes less than a minute.

    Raises: EmulationError if it cannot be measured here.
    """
    kernel_settings.check((), "user")
    with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
        path = Path(directory) / "chain.yaml"
        path.write_text(yaml.safe_dump(_chain()))
        with Emulation(load_map(str(path)), EmulationSettings(path)) as emulation:
            emulation.build()
            _lay_flows(emulation)
            large, small = _most_frames(emulation, LARGE_BYTES, say), _most_frames(emulation, SMALL_BYTES, say)
    moment = time.strftime("%Y-%m-%d %H:%M")
    source = f"measured {moment} on {os.cpu_count()} cores"
    capacity = of_points((LARGE_BYTES, large * CHAIN), (SMALL_BYTES, small * CHAIN), source)
    keep(capacity)
    return capacity


def _chain() -> dict[str, object]:
    switches = [f"s{number}" for number in range(1, CHAIN + 1)]
    ends = [("load1", "s1"), *pairwise(switches), (f"s{CHAIN}", "load2")]
    nodes = [*((name, "switch") for name in switches), ("load1", "host"), ("load2", "host")]
    return {
        "name": "chain",
        "scale_mbps_per_gbps": 1.0,
        "mtu_bytes": LARGE_BYTES - 14,
        "nodes": [{"name": name, "kind": kind, "position_km": [0, 0]} for name, kind in nodes],
        "links": [{"ends": list(pair), "length_km": 1, "channel_rate_gbps": MAX_EMULATED_MBPS} for pair in ends],
    }


def _lay_flows(emulation: Emulation) -> None:
    """From either end to the other, past a meter as every port of a real switch has."""
    for number in range(1, CHAIN + 1):
        socket = f"unix:{emulation.vswitch.directory}/s{number}.mgmt"
        _ofctl("add-meter", socket, "meter=1,kbps,burst,band=type=drop,rate=4000000,burst_size=400000")
        for port, onward in ((1, 2), (2, 1)):
            _ofctl("add-flow", socket, f"in_port={port},actions=meter:1,output:{onward}")


def _ofctl(*arguments: str) -> None:
    done = subprocess.run(["ovs-ofctl", "-O", "OpenFlow13", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"ovs-ofctl {' '.join(arguments)} failed: {done.stderr.strip()}")


def _most_frames(emulation: Emulation, frame_bytes: int, say: Callable[[str], None]) -> float:
    """The most frames of that size that came through in a second, at whichever rate."""
    most = 0.0
    for rate_mbps in RATES_MBPS:
        trials = [_trial(emulation, rate_mbps, frame_bytes) for _ in range(TRIALS)]
        most = max(most, *(delivered for delivered, _ in trials))
        if min(lost for _, lost in trials) > ENOUGH_LOST:
            break
    mbps_hops = most * CHAIN * frame_bytes * 8 / 1e6
    say(f"frames of {frame_bytes} bytes: {most:.0f} a second through {CHAIN} switches, {mbps_hops:.0f} Mb/s x switches")
    if not most:
        raise EmulationError("nothing came through the switches; see whether something else fills this machine")
    return most


def _trial(emulation: Emulation, rate_mbps: float, frame_bytes: int) -> tuple[float, float]:
    """Send for a while at that rate in both directions: frames delivered a second, and the share that was lost."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = ["chrt", "-f", str(BELOW_THE_SWITCH)] if emulation.vswitch.real_time else []
    server = emulation.popen_in("load2", [*first, "iperf3", "-s", "-1"], **quiet)
    try:
        emulation.wait_for_listener("load2", 5201)
        what = f"-u -w 8M -l {frame_bytes - HEADERS_BYTES} -b {rate_mbps:g}M -t {TRIAL_S:g}"
        text = emulation.run_in("load1", f"{' '.join(first)} iperf3 -J --bidir -c {emulation.plan.ip('load2')} {what}")
    finally:
        server.terminate()
        server.wait(5)
    ends = json.loads(text)["end"]
    ways = [ends["sum"], ends["sum_bidir_reverse"]]
    delivered = sum((way["packets"] - way["lost_packets"]) / way["seconds"] for way in ways)
    return delivered, sum(way["lost_packets"] for way in ways) / max(1, sum(way["packets"] for way in ways))
