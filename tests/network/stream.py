"""The two ends of a paced UDP stream whose datagrams are numbered and timed by the kernel; run inside hosts.

    stream.py receive PORT OUT        prints `listening`, then `receiving`; writes OUT when all is over
    stream.py send ADDRESS PORT SOURCE_PORT PER_S PAYLOAD_BYTES SECONDS        prints how many it sent

OUT is JSON: `arrivals` [[number, Unix time in s, DSCP], …] in order of arrival.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
from pathlib import Path

SO_TIMESTAMPNS = 35
HEADER = struct.Struct("!Q")
THE_END = 2**64 - 1
STRAGGLERS_S = 1.0
"""How long after the end something may still be on its way."""
CATCH_UP_S = 0.005
"""As much lateness is made up for; the sender of a reserved flow never bursts beyond that."""


def receive(port: int, out: Path) -> None:
    """Note each datagram's number and when the kernel had it."""
    arrivals: list[tuple[int, float, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
        endpoint.bind(("0.0.0.0", port))
        print("listening", flush=True)
        with contextlib.suppress(TimeoutError):
            while True:
                _receive_one(endpoint, arrivals)
    out.write_text(json.dumps({"arrivals": arrivals}))


def _receive_one(endpoint: socket.socket, arrivals: list[tuple[int, float, int]]) -> None:
    data, ancillary, _, _ = endpoint.recvmsg(65536, 128)
    notes = {(level, kind): value for level, kind, value in ancillary}
    seconds, nanoseconds = struct.unpack("qq", notes[socket.SOL_SOCKET, SO_TIMESTAMPNS])
    (number,) = HEADER.unpack(data[: HEADER.size])
    if number == THE_END:
        endpoint.settimeout(STRAGGLERS_S)
        return
    if not arrivals:
        print("receiving", flush=True)
    dscp = notes[socket.IPPROTO_IP, socket.IP_TOS][0] >> 2
    arrivals.append((number, seconds + nanoseconds / 1e9, dscp))


def send(address: str, port: int, source_port: int, per_s: float, payload_bytes: int, seconds: float) -> None:
    """Send numbered datagrams at an even pace; after a pause of the machine it goes on from there, with no burst."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)  # priority at the host's own port
        endpoint.bind(("0.0.0.0", source_port))
        endpoint.connect((address, port))
        filling = bytes(payload_bytes - HEADER.size)
        count, due_s = round(per_s * seconds), time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, due_s - time.monotonic()))
            endpoint.send(HEADER.pack(number) + filling)
            due_s = max(due_s + 1 / per_s, time.monotonic() - CATCH_UP_S)
        for _ in range(5):
            time.sleep(0.05)
            endpoint.send(HEADER.pack(THE_END))
        print(count)


def main() -> None:
    """Read the command line."""
    if sys.argv[1] == "receive":
        receive(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        address, port, source_port, per_s, payload_bytes, seconds = sys.argv[2:]
        send(address, int(port), int(source_port), float(per_s), int(payload_bytes), float(seconds))


if __name__ == "__main__":
    main()
