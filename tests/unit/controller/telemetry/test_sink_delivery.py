"""Sinks that answer a byte at a time hold no thread of the deliveries for longer than one attempt may take."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.telemetry.sink_delivery import ATTEMPTS, THREADS, Delivery, SinkDelivery
from tests.https_sink import https_sink

BODY = b'{"data": {"sessionId": "one"}}'


@contextmanager
def dripping_sink(after_handshake: ssl.SSLContext | None) -> Iterator[int]:
    """A server that sends a byte every 50 ms without end, as its answer or, without a context, as its handshake."""
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            if after_handshake is not None:
                connection = after_handshake.wrap_socket(connection, server_side=True)
            with connection:
                while not stopped.wait(0.05):
                    connection.sendall(b"\x16" if after_handshake is None else b"x")
        except OSError:
            pass

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=drip, args=(connection,), daemon=True))
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopped.set()
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("is_handshake", [True, False])
def test_a_sink_that_drips_is_given_up_and_delays_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_handshake: bool
) -> None:
    caplog.set_level(logging.WARNING)
    with https_sink(tmp_path) as sink:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "sink.crt", tmp_path / "sink.key")
        with dripping_sink(None if is_handshake else context) as port:
            delivery = SinkDelivery([("localhost", port), ("localhost", sink.port)], first_delay_s=0.01, attempt_s=0.3)
            for number in range(THREADS):
                delivery.submit(Delivery(f"dripping{number}", f"https://localhost:{port}/", BODY))
            delivery.submit(Delivery("good", sink.url, BODY))
            while not sink.events or len(caplog.records) < THREADS:  # ends by pytest-timeout if an attempt never does
                time.sleep(0.01)
            delivery.stop()
    assert {record.getMessage() for record in caplog.records} == {
        f"event not delivered url=https://localhost:{port}/ after {ATTEMPTS} attempts"}
