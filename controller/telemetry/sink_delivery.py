"""Delivers events to the sinks of clients: one HTTPS POST each, in threads of their own, with bounded retries.

Events with the same key arrive in order; a sink that is slow or away delays no other for longer than one attempt in
each of the THREADS. No redirect is followed. Source: CloudEvents 1.0.2, HTTP protocol binding, structured mode.
"""

from __future__ import annotations

import contextlib
import heapq
import http.client
import itertools
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

THREADS = 4
ATTEMPTS = 5
FIRST_DELAY_S = 1.0
"""Before the second attempt; each later delay is twice as long."""
TIMEOUT_S = 5.0
"""Without a byte."""
ATTEMPT_S = 10.0
"""One attempt in all, from the handshake to the status."""
MAX_PENDING = 10_000
CONTENT_TYPE = "application/cloudevents+json"
GONE = 410
"""The client no longer wants events at this sink."""

Sink = tuple[str, int]
"""Host (in lower case) and port."""


def sink_of(url: str) -> Sink | None:
    """Host and port of an https URL; None if it is not one, or carries a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or not url.isascii():
        return None
    if any(character <= " " or character == "\x7f" for character in url):
        return None
    return parts.hostname.lower(), 443 if port is None else port


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event. `key`: events of the same key are delivered in order. `before`: called once before the first attempt.

    `token`: for the header Authorization, until `token_expires_s` (Unix time). `body` None: nothing is sent.
    """

    key: str
    url: str | None
    body: bytes | None
    token: str | None = None
    token_expires_s: float | None = None
    before: Callable[[], None] | None = None


class SinkDelivery:
    """The threads that deliver events; they start with the first one. `allowed`: the sinks that get any."""

    def __init__(
        self, allowed: Collection[Sink] = (), first_delay_s: float = FIRST_DELAY_S, attempt_s: float = ATTEMPT_S
    ) -> None:
        self.allowed = frozenset(allowed)
        self._first_delay_s, self._attempt_s = first_delay_s, attempt_s
        self._condition = threading.Condition()
        self._pending: dict[str, deque[Delivery]] = {}
        self._count = 0
        self._due: list[tuple[float, int, str, int]] = []
        self._order = itertools.count()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, delivery: Delivery) -> None:
        """Queue an event. Does not block; drops it if MAX_PENDING wait."""
        with self._condition:
            if self._stopped:
                return
            if self._count >= MAX_PENDING:
                log.warning("event dropped key=%s: %d events wait already", delivery.key, MAX_PENDING)
                return
            waiting = self._pending.setdefault(delivery.key, deque())
            waiting.append(delivery)
            self._count += 1
            if len(waiting) == 1:
                self._schedule(delivery.key, 0.0, 0)
            while len(self._threads) < THREADS:
                thread = threading.Thread(target=self._run, name="paceline-sink", daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Stop the threads after their present attempts; what waits is dropped."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(ATTEMPT_S)

    def _schedule(self, key: str, delay_s: float, failures: int) -> None:
        heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), key, failures))
        self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                taken = self._next()
                if taken is None:
                    return
                key, failures = taken
                delivery = self._pending[key][0]
            try:
                status = self._attempt(delivery, is_first=failures == 0)
            except Exception:
                log.exception("event not delivered key=%s", key)
                status = 0
            self._settle(key, delivery, status, failures)

    def _next(self) -> tuple[str, int] | None:
        """Wait for a key that is due; None: stopped. Under the condition."""
        while not self._stopped:
            wait_s = self._due[0][0] - time.monotonic() if self._due else None
            if wait_s is not None and wait_s <= 0:
                _, _, key, failures = heapq.heappop(self._due)
                return key, failures
            self._condition.wait(wait_s)
        return None

    def _settle(self, key: str, delivery: Delivery, status: int, failures: int) -> None:
        is_done = 200 <= status < 300 or status == GONE
        with self._condition:
            if not is_done and failures + 1 < ATTEMPTS:
                self._schedule(key, self._first_delay_s * 2**failures, failures + 1)
                return
            if not is_done:
                log.warning("event not delivered url=%s after %d attempts", delivery.url, ATTEMPTS)
            waiting = self._pending[key]
            waiting.popleft()
            self._count -= 1
            if waiting:
                self._schedule(key, 0.0, 0)
            else:
                del self._pending[key]

    def _attempt(self, delivery: Delivery, is_first: bool) -> int:
        """The HTTP status; 204 where nothing is to be sent, 0 where no answer came."""
        if is_first and delivery.before is not None:
            delivery.before()
        url, body = delivery.url, delivery.body
        sink = None if url is None else sink_of(url)
        is_expired = delivery.token_expires_s is not None and delivery.token_expires_s <= time.time()
        if url is None or body is None or sink not in self.allowed or sink is None or is_expired:
            return 204
        headers = {"Content-Type": CONTENT_TYPE}
        if delivery.token is not None:
            headers["Authorization"] = f"Bearer {delivery.token}"
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(*sink, context=context)
        try:
            with socket.create_connection(sink, TIMEOUT_S) as plain, context.wrap_socket(
                plain, server_hostname=sink[0], do_handshake_on_connect=False
            ) as secure, _ended_after(self._attempt_s, secure):
                secure.do_handshake()
                connection.sock = secure
                connection.request("POST", target, body, headers)
                return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            log.info("event not delivered url=%s: %s", url, error)
            return 0


@contextmanager
def _ended_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Shut a connection down if the block takes longer: a sink may send, and take, a byte now and then without end."""
    timer = threading.Timer(seconds, partial(_shut_down, connection))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of SSLSocket, it would drop the state that is in use
