"""A stream of numbered datagrams through an emulation, and the gaps in its arrivals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import httpx

from emulation.network import Emulation
from machine.stall_watch import Stall, stalled_s

ENDPOINTS = str(Path(__file__).with_name("datagram_endpoints.py"))
PER_S, PAYLOAD_BYTES, RATE_BPS = 1000, 1000, 10_000_000
EXPEDITED = 46
"""DSCP of reserved datagrams."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Arrivals of a stream; times refer to the datagrams marked as reserved.

    `gap_ms`: the longest time between two arrivals with datagrams missing in between; `gap_from_s`: its start (seconds
    since the epoch); `silence_ms`: the longest time between any two arrivals, which also grows when the machine or the
    sender stalls and nothing is missing.
    """

    sent: int
    lost: int
    gap_ms: float
    gap_from_s: float
    silence_ms: float

    def gap_while_machine_ran_ms(self, stalls: Sequence[Stall]) -> float:
        """The gap minus the proven stalls of the machine within it."""
        return self.gap_ms - stalled_s(stalls, self.gap_from_s, self.gap_from_s + self.gap_ms / 1e3) * 1e3


@contextmanager
def datagram_stream(emulation: Emulation, seconds: float, directory: Path) -> Iterator[list[Arrivals]]:
    """Run a stream from edge1 to the cloud, arriving when the block starts; the list is filled at its end."""
    result: list[Arrivals] = []
    out = directory / "arrivals.json"
    receive = [sys.executable, ENDPOINTS, "receive", "7800", str(out)]
    send = [sys.executable, ENDPOINTS, "send", emulation.topology.ip("cloud"), "7800", "7801"]
    send += [str(PER_S), str(PAYLOAD_BYTES), str(seconds)]
    receiver = emulation.popen_in("cloud", receive, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout
    receiver.stdout.readline()
    sender = emulation.popen_in("edge1", send, stdout=subprocess.PIPE, text=True)
    receiver.stdout.readline()
    yield result
    sent = int(sender.communicate(timeout=seconds + 60)[0])
    receiver.wait(30)
    arrivals = json.loads(out.read_text())["arrivals"]
    marked = sorted((number, at_s) for number, at_s, dscp in arrivals if dscp == EXPEDITED)
    steps = list(pairwise(marked))
    waits = [((after - before) * 1e3, before) for (_, before), (_, after) in steps]
    missing = [later - sooner > 1 for (sooner, _), (later, _) in steps]
    gap_ms, gap_from_s = max(compress(waits, missing), default=(0.0, 0.0))
    lost = sent - len({number for number, *_ in arrivals})
    result.append(Arrivals(sent, lost, gap_ms, gap_from_s, max(waits)[0]))


@contextmanager
def reserved_stream(api: httpx.Client, protection: str) -> Iterator[dict[str, Any]]:
    """Reserve the stream within the block."""
    match = {"protocol": "udp", "source_port": 7801, "destination_port": 7800}
    flow = {
        "name": "stream", "source": "edge1", "destination": "cloud", "match": match,
        "requirement": {"min_bandwidth_bps": RATE_BPS, "protection": protection},
    }  # fmt: skip
    answer = api.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
    answer.raise_for_status()
    yield answer.json()
    api.delete(f"/v1/reservations/{answer.json()['id']}").raise_for_status()
