"""Handshakes of edges: one deadline each, few at once, and none that keeps an edge from joining."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.unit.trainer.cloud.test_edge_manager import free_port, join_request, joined
from trainer.cloud.edge_acceptor import UNAUTHENTICATED_LIMITS, EdgeAcceptor, HandshakeLimits
from trainer.protocol import framing, messages
from trainer.transport.connection import Connection
from trainer.transport.credentials import TransportCredentials

LIMITS = HandshakeLimits(total=6, per_address=4, timeout_s=1.0)


@pytest.fixture
def port() -> Iterator[int]:
    chosen, admitted = free_port(), []

    def admit(_request: messages.JoinRequest, connection: Connection, accepted: messages.JoinAccepted) -> None:
        connection.send(accepted)
        admitted.append(connection)

    acceptor = EdgeAcceptor(("127.0.0.1", chosen), TransportCredentials(), admit, LIMITS)
    yield chosen
    acceptor.close()
    for connection in admitted:
        connection.close()


def ended_after_s(stranger: socket.socket, start_s: float) -> float:
    """Read to the end of a connection; when that was."""
    stranger.settimeout(30)
    try:
        while stranger.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start_s


def test_a_peer_that_drips_bytes_ends_at_the_deadline_of_the_whole_handshake(port: int) -> None:
    start_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        header = framing.PREFIX.pack(framing.MAGIC, framing.VERSION, 1, 0, 1000, 0, 0.0, 1) + bytes(1000)
        stranger.settimeout(0.2)
        with pytest.raises(OSError, match=r"(?i)reset|broken pipe"):
            for byte in header:
                stranger.sendall(bytes([byte]))
                try:
                    while stranger.recv(4096):
                        pass
                except TimeoutError:
                    continue
        assert time.monotonic() - start_s >= LIMITS.timeout_s


def test_strangers_keep_no_edge_from_joining(port: int) -> None:
    with ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        start_s = time.monotonic()
        joined(port, "edge1").close()
        assert time.monotonic() - start_s < LIMITS.timeout_s
        others = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{n}", 0)))
            for n in range(2, 12)
        ]
        joined(port, "edge2").close()
        for stranger in (*strangers, *others):
            ended_after_s(stranger, start_s)


def test_a_request_has_a_small_header(port: int) -> None:
    assert len(framing.encode(join_request("edge1"))[1]) < UNAUTHENTICATED_LIMITS.header_bytes / 4
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        size = UNAUTHENTICATED_LIMITS.header_bytes + 1
        stranger.sendall(framing.PREFIX.pack(framing.MAGIC, framing.VERSION, 1, 0, size, 0, 0.0, 1))
        assert ended_after_s(stranger, 0) > 0
