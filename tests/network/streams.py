"""A numbered UDP stream between two hosts of an emulation, and what became of it."""

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

STREAM = str(ROOT / "tests/network/stream.py")
PER_S = 1000
PAYLOAD_BYTES = 1000
RATE_BPS = 10_000_000
"""What such a stream needs: 1042 bytes a frame, and a fifth more for a sender that makes up for lateness."""

WAKING_S = 0.01
"""How much longer than its watcher says a core may have been still: two ticks and the work that waits then."""

NOT_MORE_LOST_IN_A_ROW = 50
"""Datagrams a millisecond apart: 50 ms."""


@dataclass
class Stream:
    """Filled when the stream has ended: [number, Unix time, DSCP] of each datagram, in order of arrival."""

    sent: int = 0
    arrivals: list[tuple[int, float, int]] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.sent - len({number for number, _, _ in self.arrivals})

    @property
    def gaps(self) -> list[int]:
        """The lengths of all runs of numbers that never came."""
        numbers = sorted({number for number, _, _ in self.arrivals})
        return [after - before - 1 for before, after in pairwise([-1, *numbers, self.sent]) if after - before > 1]

    @property
    def lost_in_a_row(self) -> int:
        """The longest of them."""
        return max(self.gaps, default=0)

    @property
    def duplicates(self) -> int:
        return len(self.arrivals) - len({number for number, _, _ in self.arrivals})

    @property
    def excused(self) -> int:
        """How many may be lost to this machine: while the switches' core stands still and the sender's does not, what
        was sent piles up, and its meter takes it for a burst. Only proven standstills count."""
        proven = sum(stall.is_proven for stall in self.stalls)
        return ceil(PER_S * (stalled_s(self.stalls, 0.0, inf) + WAKING_S * proven))

    def check_complete(self, marks: Set[int] = frozenset({46})) -> None:
        """Every datagram has come once, marked as reserved."""
        assert self.lost <= self.excused, f"lost {self.lost} in runs of {self.gaps}; {describe_stalls(self.stalls)}"
        assert self.duplicates == 0
        assert self.marks() == marks

    def check_gap(self, most: int = NOT_MORE_LOST_IN_A_ROW) -> None:
        """A failure has cost one short gap at most."""
        told = f"lost {self.lost} in runs of {self.gaps}; {describe_stalls(self.stalls)}"
        assert self.lost_in_a_row <= most + self.excused, told
        assert self.lost <= self.lost_in_a_row + 5 + self.excused, told
        assert self.duplicates == 0
        assert self.marks() == {46}

    def marks(self) -> set[int]:
        return {dscp for _, _, dscp in self.arrivals}


@contextmanager
def stream(network: Network, source: str, sink: str, seconds: float, directory: Path) -> Iterator[Stream]:
    """A stream from port 7801 to 7800 that has begun to arrive when the block begins, and has ended when it ends."""
    result, out = Stream(), directory / f"arrivals-{source}.json"
    out.unlink(missing_ok=True)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE}
    receive = [sys.executable, STREAM, "receive", "7800", str(out)]
    with StallWatch() as watch, network.running_in(sink, receive, **pipes) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        send = [sys.executable, STREAM, "send", network.topology.ip(sink), "7800", "7801", str(PER_S)]
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
    """A reservation of the flow; one that has just been released counts until its last switch has confirmed it."""

    def post() -> httpx.Response:
        return network.api.post("/v1/reservations", json={"owner": "test", "lease_s": 300, "flows": [flow]})

    deadline = time.monotonic() + 30
    while (answer := post()).status_code == 409 and answer.json()["code"] == "flow_in_use":
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    assert answer.status_code == 201, answer.text
    try:
        yield answer.json()
    finally:
        released = network.api.delete(f"/v1/reservations/{answer.json()['id']}")
        assert released.status_code == 200, released.text
