"""Sender and receiver of the fuzzer; run inside hosts, without Paceline's packages.

    endpoints.py receive OUT        prints `listening`; writes OUT when its standard input is closed
    endpoints.py send               reads a JSON command per line, ends when its standard input is closed

A command starts, changes or stops the stream of a flow: `{"flow": 7, "address": …, "port": …, "source_port": …,
"rate_bps": …, "burst_bytes": …, "frame_bytes": …, "pattern": "even" | "greedy" | "flood", "until_s": …}`; a rate of 0
stops it. Sizes are those of L2 frames. A stream keeps to a token bucket of that rate and burst, except `flood`, which
sends at the rate whatever the bucket is. `greedy` saves tokens until the bucket is full, sends all of them at once, and
continues at the rate for a second.

With `"window": [period, offset, length]` (s) datagrams leave only in that part of every period of Unix time.

OUT has one record per datagram, in the order of arrival. RECORD: flow, number, sent at, arrived at (ns since the
epoch), DSCP, frame bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = struct.Struct("!IIQ")
RECORD = struct.Struct("!IIQQHH")
FRAME_OVERHEAD_BYTES = 14 + 20 + 8
"""Ethernet, IPv4 and UDP headers."""
PORT = 7900
SO_TIMESTAMPNS = 35
EXPEDITED_TOS = 46 << 2
GREEDY_S = 1.0


def receive(out: Path) -> None:
    """Record all datagrams to PORT until the standard input is closed."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint, out.open("wb") as records:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_000_000)
        endpoint.bind(("0.0.0.0", PORT))
        endpoint.settimeout(0.2)
        print("listening", flush=True)
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                while True:
                    data, ancillary, _, _ = endpoint.recvmsg(16_384, 128)
                    control = {(level, kind): value for level, kind, value in ancillary}
                    seconds, nanoseconds = struct.unpack("qq", control[socket.SOL_SOCKET, SO_TIMESTAMPNS])
                    flow, number, sent_ns = HEADER.unpack(data[: HEADER.size])
                    dscp = control[socket.IPPROTO_IP, socket.IP_TOS][0] >> 2
                    size = len(data) + FRAME_OVERHEAD_BYTES
                    records.write(
                        RECORD.pack(flow, number, sent_ns, seconds * 10**9 + nanoseconds, dscp, size)
                    )


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


@dataclass
class Stream:
    """The stream of one flow: its socket and its token bucket."""

    command: dict[str, Any]
    endpoint: socket.socket
    tokens_bytes: float = 0.0
    filled_s: float = field(default_factory=time.monotonic)
    number: int = 0
    is_saving: bool = True
    greedy_until_s: float = 0.0

    def change(self, command: dict[str, Any]) -> None:
        """Take a new rate, burst and pattern; tokens are kept, up to the new burst."""
        self.command = {**self.command, **command}
        self.tokens_bytes = min(self.tokens_bytes, self.command["burst_bytes"])

    def due_in_s(self, now_s: float) -> float:
        """Refill the bucket; the time until the next datagram may be sent."""
        rate_bytes, burst_bytes = float(self.command["rate_bps"]) / 8, float(self.command["burst_bytes"])
        self.tokens_bytes = min(burst_bytes, self.tokens_bytes + rate_bytes * (now_s - self.filled_s))
        self.filled_s = now_s
        if window := self.command.get("window"):
            period_s, offset_s, length_s = window
            phase_s = (time.time() - offset_s) % period_s
            if phase_s > length_s:
                return float(period_s - phase_s)
        wanted = float(self.command["frame_bytes"])
        if self.command["pattern"] == "greedy":
            if self.is_saving:
                wanted = burst_bytes
            elif now_s > self.greedy_until_s:
                self.is_saving = True
                wanted = burst_bytes
        return max(0.0, wanted - self.tokens_bytes) / rate_bytes

    def send(self, now_s: float) -> None:
        """Send what the bucket allows (`even`: one datagram)."""
        if self.command["pattern"] == "greedy" and self.is_saving:
            self.is_saving, self.greedy_until_s = False, now_s + GREEDY_S * random.random()
        frame_bytes = self.command["frame_bytes"]
        padding = bytes(frame_bytes - FRAME_OVERHEAD_BYTES - HEADER.size)
        while self.tokens_bytes >= frame_bytes:
            self.tokens_bytes -= frame_bytes
            with contextlib.suppress(OSError):  # the queue of a flooding host is full
                self.endpoint.send(HEADER.pack(self.command["flow"], self.number, time.time_ns()) + padding)
            self.number += 1
            if self.command["pattern"] == "even":
                break


def send() -> None:
    """Run the streams that the commands describe; at the end print how many datagrams of each flow were sent."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    streams: dict[int, Stream] = {}
    sent: dict[int, int] = {}
    os.set_blocking(0, False)
    buffer = b""
    print("sending", flush=True)
    while True:
        now_s, wait_s = time.monotonic(), 0.2
        for flow, stream in list(streams.items()):
            if stream.command["rate_bps"] <= 0 or time.time() > stream.command["until_s"]:
                sent[flow] = stream.number
                stream.endpoint.close()
                del streams[flow]
                continue
            due_in_s = stream.due_in_s(now_s)
            if due_in_s <= 0:
                stream.send(now_s)
                due_in_s = stream.due_in_s(now_s)
            wait_s = min(wait_s, due_in_s)
        if select.select([0], [], [], wait_s)[0]:
            data = os.read(0, 65_536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                _apply(streams, json.loads(line), sent)
    print(json.dumps(sent | {flow: stream.number for flow, stream in streams.items()}), flush=True)


def _apply(streams: dict[int, Stream], command: dict[str, Any], sent: dict[int, int]) -> None:
    flow = command["flow"]
    if flow in streams:
        streams[flow].change(command)
    elif command["rate_bps"] > 0:
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if command["pattern"] != "flood":
            endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED_TOS)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_000_000)
        endpoint.bind(("0.0.0.0", command["source_port"]))
        endpoint.connect((command["address"], command["port"]))
        streams[flow] = Stream(command, endpoint, number=sent.get(flow, 0))


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(Path(sys.argv[2]))
    else:
        send()
