"""A stream of numbered datagrams between two hosts of an emulation, and checks on its arrivals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from typing import Any

import httpx

from machine.stall_watch import Stall, StallWatch, describe_stalls, stalled_s
from tests.network.conftest import ROOT, Network

ENDPOINTS = str(ROOT / "bench/harness/datagram_endpoints.py")
PER_S = 1000
PAYLOAD_BYTES = 1000
RATE_BPS = 10_000_000
"""Rate of the stream: 1042 bytes per frame, plus a fifth for a sender that makes up for lateness."""

WAKE_UP_S = 0.01
"""Time by which a stall may exceed its proven part: two ticks and the work queued meanwhile."""

MAX_LOST_IN_A_ROW = 50
"""Datagrams a millisecond apart: 50 ms."""


@dataclass
class Stream:
    """Result of a stream, filled at its end: [number, Unix time, DSCP] of each datagram, in order of arrival."""

    sent: int = 0
    arrivals: list[tuple[int, float, int]] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.sent - len({number for number, _, _ in self.arrivals})

    @property
    def gaps(self) -> list[int]:
        """Lengths of all runs of consecutive lost datagrams."""
        numbers = sorted({number for number, _, _ in self.arrivals})
        return [after - before - 1 for before, after in pairwise([-1, *numbers, self.sent]) if after - before > 1]

    @property
    def lost_in_a_row(self) -> int:
        """The longest run of lost datagrams."""
        return max(self.gaps, default=0)

    @property
    def duplicates(self) -> int:
        return len(self.arrivals) - len({number for number, _, _ in self.arrivals})

    @property
    def excused(self) -> int:
        """Losses explained by proven stalls of this machine: while the switches' core stalls and the sender's does not,
        datagrams accumulate, and the meter treats them as a burst."""
        proven = sum(stall.is_proven for stall in self.stalls)
        return ceil(PER_S * (stalled_s(self.stalls, 0.0, inf) + WAKE_UP_S * proven))

    def check_complete(self, marks: Set[int] = frozenset({46})) -> None:
        """Check that every datagram has arrived once, marked as reserved."""
        assert self.lost <= self.excused, f"lost {self.lost} in runs of {self.gaps}; {describe_stalls(self.stalls)}"
        assert self.duplicates == 0
        assert self.marks() == marks

    def check_gap(self, max_gap: int = MAX_LOST_IN_A_ROW) -> None:
        """Check that at most one short gap has occurred."""
        losses = f"lost {self.lost} in runs of {self.gaps}; {describe_stalls(self.stalls)}"
        assert self.lost_in_a_row <= max_gap + self.excused, losses
        assert self.lost <= self.lost_in_a_row + 5 + self.excused, losses
        assert self.duplicates == 0
        assert self.marks() == {46}

    def marks(self) -> set[int]:
        return {dscp for _, _, dscp in self.arrivals}


@contextmanager
def stream(network: Network, source: str, sink: str, seconds: float, directory: Path) -> Iterator[Stream]:
    """Run a stream from port 7801 to 7800 within the block; it is arriving when the block starts."""
    result, out = Stream(), directory / f"arrivals-{source}.json"
    out.unlink(missing_ok=True)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE}
    receive = [sys.executable, ENDPOINTS, "receive", "7800", str(out)]
    with StallWatch() as watch, network.running_in(sink, receive, **pipes) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        send = [sys.executable, ENDPOINTS, "send", network.topology.ip(sink), "7800", "7801", str(PER_S)]
        with network.running_in(source, [*send, str(PAYLOAD_BYTES), str(seconds)], **pipes) as sender:
            assert receiver.stdout.readline() == b"receiving\n"
            yield result
            text, _ = sender.communicate(timeout=60)
            result.sent = int(text)
        receiver.wait(60)
        receiver.stdout.close()
    result.stalls = watch.stalls
    result.arrivals = [tuple(arrival) for arrival in json.loads(out.read_text())["arrivals"]]


def udp_flow(source: str, sink: str, requirement: dict[str, Any]) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": 7801, "destination_port": 7800}
    return {"name": "stream", "source": source, "destination": sink, "match": match, "requirement": requirement}


@contextmanager
def reserved_flow(network: Network, flow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Reserve the flow within the block; retries while the release of an earlier reservation is not yet confirmed."""

    def post() -> httpx.Response:
        return network.api.post("/v1/reservations", json={"owner": "test", "lease_s": 300, "flows": [flow]})

    deadline = time.monotonic() + 30
    while (response := post()).status_code == 409 and response.json()["code"] == "flow_in_use":
        assert time.monotonic() < deadline, response.text
        time.sleep(0.1)
    assert response.status_code == 201, response.text
    try:
        yield response.json()
    finally:
        released = network.api.delete(f"/v1/reservations/{response.json()['id']}")
        assert released.status_code == 200, released.text
