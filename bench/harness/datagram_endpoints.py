"""Sender and receiver of a paced UDP stream of numbered datagrams with kernel timestamps; run inside hosts.

    datagram_endpoints.py receive PORT OUT        prints `listening`, then `receiving`; writes OUT at the end
    datagram_endpoints.py send ADDRESS PORT SOURCE_PORT PER_S PAYLOAD_BYTES SECONDS        prints the number sent

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

SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33
"""Options of Linux that the socket module does not name; the second needs root and ignores net.core.rmem_max."""
HEADER = struct.Struct("!Q")
END_NUMBER = 2**64 - 1
LATE_ARRIVALS_S = 1.0
"""Time after the end marker in which datagrams may still arrive."""
CATCH_UP_S = 0.002
"""Largest lateness that the sender makes up for; it never bursts beyond that."""


def receive(port: int, out: Path) -> None:
    """Record each datagram's number, kernel timestamp and DSCP."""
    arrivals: list[tuple[int, float, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        endpoint.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        endpoint.bind(("0.0.0.0", port))
        print("listening", flush=True)
        with contextlib.suppress(TimeoutError):
            while True:
                _receive_datagram(endpoint, arrivals)
    out.write_text(json.dumps({"arrivals": arrivals}))


def _receive_datagram(endpoint: socket.socket, arrivals: list[tuple[int, float, int]]) -> None:
    data, ancillary, _, _ = endpoint.recvmsg(65536, 128)
    control = {(level, kind): value for level, kind, value in ancillary}
    seconds, nanoseconds = struct.unpack("qq", control[socket.SOL_SOCKET, SO_TIMESTAMPNS])
    (number,) = HEADER.unpack(data[: HEADER.size])
    if number == END_NUMBER:
        endpoint.settimeout(LATE_ARRIVALS_S)
        return
    if not arrivals:
        print("receiving", flush=True)
    dscp = control[socket.IPPROTO_IP, socket.IP_TOS][0] >> 2
    arrivals.append((number, seconds + nanoseconds / 1e9, dscp))


def send(address: str, port: int, source_port: int, per_s: float, payload_bytes: int, seconds: float) -> None:
    """Send numbered datagrams at an even pace; after a stall of the machine it continues without a burst."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)  # priority at the host's own port
        endpoint.bind(("0.0.0.0", source_port))
        endpoint.connect((address, port))
        padding = bytes(payload_bytes - HEADER.size)
        count, due_s = round(per_s * seconds), time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, due_s - time.monotonic()))
            endpoint.send(HEADER.pack(number) + padding)
            due_s = max(due_s + 1 / per_s, time.monotonic() - CATCH_UP_S)
        for _ in range(5):
            time.sleep(0.05)
            endpoint.send(HEADER.pack(END_NUMBER))
        print(count)


def main() -> None:
    """Parse the command line and run."""
    if sys.argv[1] == "receive":
        receive(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        address, port, source_port, per_s, payload_bytes, seconds = sys.argv[2:]
        send(address, int(port), int(source_port), float(per_s), int(payload_bytes), float(seconds))


if __name__ == "__main__":
    main()
