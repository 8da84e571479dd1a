"""Numbered datagrams and gaps (from survival.py)."""

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

STREAM = str(Path(__file__).parents[2] / "tests/network/stream.py")


PER_S, PAYLOAD_BYTES, RATE_BPS = 1000, 1000, 10_000_000


EXPEDITED = 46


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What came of a stream, of what came with its mark.

    `gap_ms`: the longest time from one datagram to the next where some are missing between, and when it began (seconds
    since the epoch); `silence_ms`: the longest time between any two, which is also long when the machine or the sender
    stood still and nothing is missing.
    """

    sent: int
    lost: int
    gap_ms: float
    gap_from_s: float
    silence_ms: float

    def gap_while_machine_ran_ms(self, stalls: Sequence[Stall]) -> float:
        """The gap without what the machine is proven to have stood still of it."""
        return self.gap_ms - stalled_s(stalls, self.gap_from_s, self.gap_from_s + self.gap_ms / 1e3) * 1e3


@contextmanager
def stream(emulation: Emulation, seconds: float, directory: Path) -> Iterator[list[Arrivals]]:
    """A stream from edge1 to the cloud that arrives when the block begins; the list is filled when it has ended."""
    result: list[Arrivals] = []
    out = directory / "arrivals.json"
    receive = [sys.executable, STREAM, "receive", "7800", str(out)]
    send = [sys.executable, STREAM, "send", emulation.topology.ip("cloud"), "7800", "7801"]
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
def reserved(api: httpx.Client, protection: str) -> Iterator[dict[str, Any]]:
    """The stream's reservation."""
    match = {"protocol": "udp", "source_port": 7801, "destination_port": 7800}
    flow = {
        "name": "stream", "source": "edge1", "destination": "cloud", "match": match,
        "requirement": {"min_bandwidth_bps": RATE_BPS, "protection": protection},
    }  # fmt: skip
    answer = api.post("/v1/reservations", json={"lease_s": 600, "flows": [flow]})
    answer.raise_for_status()
    yield answer.json()
    api.delete(f"/v1/reservations/{answer.json()['id']}").raise_for_status()
