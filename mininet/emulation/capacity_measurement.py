"""Measures this machine's forwarding capacity: two hosts at a chain of switches raise their load until frames are lost.
"""

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
from machine.forwarding_capacity import Capacity, fit_capacity, save_capacity
from topologies.map_file.loader import load_map
from topologies.maps import MAX_EMULATED_MBPS

CHAIN = 4
"""Number of switches; the more, the smaller the share of the two hosts in the cost."""
LARGE_BYTES, SMALL_BYTES = 9014, 1014
HEADERS_BYTES = 42
"""Ethernet, IPv4 and UDP."""
RATES_MBPS = (50, 100, 200, 400, MAX_EMULATED_MBPS)
TRIAL_S = 1.0
TRIALS = 2
"""Trials per rate; the better one counts, so a stall of the machine does not distort the result."""
MAX_LOSS_SHARE = 0.2
HOST_PRIORITY = kernel_settings.REAL_TIME_PRIORITY - 1
"""Real-time priority of the two hosts, just below the switches': other load on this machine is not measured."""


def measure_capacity(log: Callable[[str], None]) -> Capacity:
    """Measure the capacity and store it for all later starts. Takes less than a minute.

    Raises: EmulationError if it cannot be measured on this machine.
    """
    kernel_settings.check_requirements((), "user")
    with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
        path = Path(directory) / "chain.yaml"
        path.write_text(yaml.safe_dump(_chain()))
        with Emulation(load_map(str(path)), EmulationSettings(path)) as emulation:
            emulation.build()
            _install_flows(emulation)
            large, small = (
                _max_frames_per_s(emulation, LARGE_BYTES, log),
                _max_frames_per_s(emulation, SMALL_BYTES, log),
            )
    date = time.strftime("%Y-%m-%d %H:%M")
    source = f"measured {date} on {os.cpu_count()} cores"
    capacity = fit_capacity((LARGE_BYTES, large * CHAIN), (SMALL_BYTES, small * CHAIN), source)
    save_capacity(capacity)
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


def _install_flows(emulation: Emulation) -> None:
    """Forward in both directions, through a meter as on every port of a controlled switch."""
    for number in range(1, CHAIN + 1):
        socket = f"unix:{emulation.vswitch.directory}/s{number}.mgmt"
        _ofctl("add-meter", socket, "meter=1,kbps,burst,band=type=drop,rate=4000000,burst_size=400000")
        for in_port, out_port in ((1, 2), (2, 1)):
            _ofctl("add-flow", socket, f"in_port={in_port},actions=meter:1,output:{out_port}")


def _ofctl(*arguments: str) -> None:
    done = subprocess.run(["ovs-ofctl", "-O", "OpenFlow13", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulationError(f"ovs-ofctl {' '.join(arguments)} failed: {done.stderr.strip()}")


def _max_frames_per_s(emulation: Emulation, frame_bytes: int, log: Callable[[str], None]) -> float:
    """The largest number of frames of that size delivered per second, over all offered rates."""
    best = 0.0
    for rate_mbps in RATES_MBPS:
        trials = [_trial(emulation, rate_mbps, frame_bytes) for _ in range(TRIALS)]
        best = max(best, *(delivered for delivered, _ in trials))
        if min(lost for _, lost in trials) > MAX_LOSS_SHARE:
            break
    mbps_hops = best * CHAIN * frame_bytes * 8 / 1e6
    log(f"frames of {frame_bytes} bytes: {best:.0f}/s through {CHAIN} switches, {mbps_hops:.0f} Mb/s x switches")
    if not best:
        raise EmulationError("no frame passed the switches; check whether other load occupies this machine")
    return best


def _trial(emulation: Emulation, rate_mbps: float, frame_bytes: int) -> tuple[float, float]:
    """Send at that rate in both directions for TRIAL_S: frames delivered per second, share of frames lost."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    prefix = ["chrt", "-f", str(HOST_PRIORITY)] if emulation.vswitch.real_time else []
    server = emulation.popen_in("load2", [*prefix, "iperf3", "-s", "-1"], **quiet)
    try:
        emulation.wait_for_listener("load2", 5201)
        load = f"-u -w 8M -l {frame_bytes - HEADERS_BYTES} -b {rate_mbps:g}M -t {TRIAL_S:g}"
        client = f"iperf3 -J --bidir -c {emulation.topology.ip('load2')} {load}"
        text = emulation.run_in("load1", f"{' '.join(prefix)} {client}")
    finally:
        server.terminate()
        server.wait(5)
    totals = json.loads(text)["end"]
    directions = [totals["sum"], totals["sum_bidir_reverse"]]
    delivered = sum((flow["packets"] - flow["lost_packets"]) / flow["seconds"] for flow in directions)
    lost, sent = (sum(flow[field] for flow in directions) for field in ("lost_packets", "packets"))
    return delivered, lost / max(1, sent)
