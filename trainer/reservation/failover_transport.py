"""HTTP to several controllers of which one is active: requests go to the one that answered last, else to the next."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from trainer.reservation.http_transport import STANDBY_STATUS, HttpTransport, Response, TransportErrors

FAILOVER_S = 10.0
"""How long the controllers are asked in turn. A standby takes over within about two seconds."""
TIMEOUT_S = 3.0
"""How long one of them may take: a controller that is frozen accepts connections and does not answer."""
PAUSE_S = 0.1
NO_ACTIVE_CONTROLLER = '"no_active_controller"'


class FailoverTransport:
    """The interface of HttpTransport over several controllers."""

    def __init__(
        self,
        urls: Sequence[str],
        headers: Mapping[str, str],
        context_of: Callable[[str], ssl.SSLContext | None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`context_of`: the TLS context for a URL.

        Raises: UsageError if a URL is not valid.
        """
        self._transports = [HttpTransport(url, headers, TIMEOUT_S, context_of(url)) for url in urls]
        self._current = 0
        self._clock = clock
        self._sleep = sleep

    def request(
        self,
        method: str,
        path: str,
        content: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request to the active controller and return its response.

        A POST without an idempotency key is not sent again after a connection that was open has failed.

        Raises: one of TransportErrors if none has answered within FAILOVER_S.
        """
        may_repeat = method != "POST" or "Idempotency-Key" in (headers or {}) or path == "/v1/quotes"
        end_s = self._clock() + FAILOVER_S
        while True:
            used = self._current
            try:
                response = self._transports[used].request(method, path, content, query, headers)
                if not _is_standby(response) or self._clock() > end_s:
                    return response
            except TransportErrors as error:
                is_sent = not isinstance(error, ConnectionRefusedError)
                if (is_sent and not may_repeat) or self._clock() > end_s:
                    raise
            self._use_next(used)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], silent_s: float
    ) -> Iterator[tuple[Response | None, Iterator[str]]]:
        """Open a response of unknown length at the controller that answered last, or at the active one.

        Raises: one of TransportErrors.
        """
        self.request("GET", "/v1/network")
        with self._transports[self._current].stream(path, headers, silent_s) as opened:
            yield opened

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            transport.close()

    def _use_next(self, used: int) -> None:
        if self._current == used:  # otherwise another thread has changed it
            self._current = (used + 1) % len(self._transports)
        self._sleep(PAUSE_S)


def _is_standby(response: Response) -> bool:
    return response.status == STANDBY_STATUS or (response.status == 503 and NO_ACTIVE_CONTROLLER in response.body)
