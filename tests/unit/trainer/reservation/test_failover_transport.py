"""Requests to several controllers, of which one is active: real HTTP servers on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR

import pytest

from trainer.reservation.failover_transport import FailoverTransport
from trainer.reservation.http_transport import TransportErrors

BREAK = 0
"""Instead of a status: the connection breaks before the response."""


class Server(ThreadingHTTPServer):
    """Answers with the statuses in turn, the last one again and again; counts requests."""

    daemon_threads = True
    statuses: list[int]
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.server.requests += 1
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        if status == BREAK:
            self.connection.shutdown(SHUT_RDWR)
            self.close_connection = True
            return
        body = b'{"code": "no_active_controller"}' if status == 503 else b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def server(*statuses: int) -> Iterator[tuple[Server, str]]:
    running = Server(("127.0.0.1", 0), Handler)
    running.statuses = list(statuses)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield running, f"http://127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def transport(*urls: str) -> FailoverTransport:
    return FailoverTransport(urls, {}, lambda _: None, sleep=lambda _: None)


@pytest.mark.parametrize("statuses", [(307,), (503, 307), (BREAK,)])
def test_a_request_goes_to_the_active_controller_and_the_next_one_at_once(statuses: tuple[int, ...]) -> None:
    with server(*statuses) as (standby, first), server(200) as (active, second):
        client = transport(first, second)
        assert [client.request("GET", "/v1/network").status for _ in range(3)] == [200] * 3
        assert (standby.requests, active.requests) == (1, 3)
        client.close()


def test_a_post_without_a_key_is_not_repeated_when_the_connection_breaks_and_one_with_a_key_is() -> None:
    with server(BREAK) as (_, first), server(201) as (other, second):
        client = transport(first, second)
        with pytest.raises(TransportErrors):
            client.request("POST", "/v1/lightpaths/defragment", {})
        assert other.requests == 0
        assert client.request("POST", "/v1/reservations", {}, headers={"Idempotency-Key": "a"}).status == 201
        client.close()


def test_without_an_active_controller_the_last_answer_is_returned_after_the_time_is_over() -> None:
    now_s = iter(range(0, 1000, 4))
    with server(307) as (_, first), server(503) as (_, second):
        client = FailoverTransport((first, second), {}, lambda _: None, lambda: next(now_s), lambda _: None)
        assert client.request("GET", "/v1/network").status in (307, 503)
        client.close()
