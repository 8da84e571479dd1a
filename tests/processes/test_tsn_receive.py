"""`paceline tsn receive` on loopback: each numbered datagram is passed on once, whichever copy comes first."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.processes.rig import free_port


@contextmanager
def receiver(port: int, to: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*(sys.executable, "-m", "trainer.cli.main", "tsn", "receive", "--listen", f"127.0.0.1:{port}"),
               *("--to", f"127.0.0.1:{to}", *arguments)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"receiving at 127.0.0.1:{port} for 127.0.0.1:{to}\n"
            yield process
        finally:
            process.kill()


def udp_socket() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    bound.settimeout(30)
    return bound


def test_copies_are_dropped_per_sender_and_counted_at_the_end() -> None:
    port = free_port()
    with udp_socket() as application, udp_socket() as first, udp_socket() as second:
        with receiver(port, application.getsockname()[1], "--offset", "2") as process:
            numbers = [65_534, 65_535, 65_534, 0, 65_535, 2, 1, 0, 2, 1]
            for number in numbers:  # as RTP has it, copies of a slower path in between, the number starting again at 0
                first.sendto(struct.pack("!HH", 0x8060, number) + b"picture", ("127.0.0.1", port))
            passed = [application.recv(100) for _ in range(5)]
            assert [struct.unpack_from("!H", datagram, 2)[0] for datagram in passed] == [65_534, 65_535, 0, 2, 1]
            assert all(datagram.endswith(b"picture") for datagram in passed)
            second.sendto(struct.pack("!HH", 0x8060, 1), ("127.0.0.1", port))
            assert len(application.recv(100)) == 4
            first.sendto(struct.pack("!HH", 0x8060, 30_000), ("127.0.0.1", port))
            first.sendto(b"abc", ("127.0.0.1", port))
            second.sendto(struct.pack("!HH", 0x8060, 2), ("127.0.0.1", port))
            assert len(application.recv(100)) == 4
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=30)
        assert told == "7 passed on, 5 copies dropped, 1 out of range, 1 without a number, 0 not taken\n"
        assert process.returncode == 0


def test_an_address_in_use_is_named() -> None:
    with udp_socket() as taken:
        port = taken.getsockname()[1]
        command = [*(sys.executable, "-m", "trainer.cli.main", "tsn", "receive", "--listen", f"127.0.0.1:{port}"),
                   *("--to", "127.0.0.1:9")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"Error: cannot receive at 127.0.0.1:{port} for 127.0.0.1:9: Address already in use\n"
