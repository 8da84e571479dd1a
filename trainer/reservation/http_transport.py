"""JSON over HTTP/1.1 on one persistent connection.

The standard library's client, because importing a larger one takes longer than `paceline network` itself.
"""

from __future__ import annotations

import http.client
import json
import select
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TypeGuard
from urllib.parse import urlencode, urlsplit

from trainer.errors import UsageError

STANDBY_STATUS = 307
"""The status by which a standby sends a request to the active controller."""

TransportErrors = (OSError, http.client.HTTPException)
"""What `HttpTransport.request` raises if there is no complete response."""


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers and body of a response."""

    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json_object(self) -> dict[str, object] | None:
        """Return the body as a JSON object; None if it is not one."""
        try:
            content = json.loads(self.body)
        except ValueError:
            return None
        return content if _is_object(content) else None


class HttpTransport:
    """Sends requests to one server; thread-safe. Proxy settings of the environment are ignored."""

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, context: ssl.SSLContext | None,
        option: str = "--controller",
    ) -> None:
        """`context`: for https. `option`: what the user gave the URL with.

        Raises: UsageError if the URL is not http://HOST[:PORT] or https://HOST[:PORT].
        """
        try:
            scheme, host, port, path = _parts(url)
        except ValueError as error:
            raise UsageError(f"{option} is {url!r}; it must be a URL such as http://127.0.0.1:8080.") from error
        self._prefix = path.rstrip("/")
        self._headers = {"Accept": "application/json", **headers}
        self._lock = threading.Lock()
        self._connect: Callable[[], http.client.HTTPConnection] = (
            partial(http.client.HTTPSConnection, host, port, timeout=timeout_s, context=context)
            if scheme == "https" else partial(http.client.HTTPConnection, host, port, timeout=timeout_s)
        )
        self._connection = self._connect()

    def request(
        self,
        method: str,
        path: str,
        content: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and return its response.

        Raises: one of TransportErrors.
        """
        target = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        fields = {**self._headers, **(headers or {})}
        body = None
        if content is not None:
            body = json.dumps(content).encode()
            fields["Content-Type"] = "application/json"
        with self._lock:
            self._close_if_stale()
            try:
                self._connection.request(method, target, body, fields)
                response = self._connection.getresponse()
                text = response.read().decode("utf-8", "replace")
            except BaseException:
                self._connection.close()  # also after Ctrl-C: the next request, a release, needs a clean connection
                raise
            return Response(response.status, response.headers, text)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], silent_s: float
    ) -> Iterator[tuple[Response | None, Iterator[str]]]:
        """Open a response of unknown length on a connection of its own: (None, its lines), or (the error, no lines).

        Raises: one of TransportErrors; TimeoutError if nothing comes for `silent_s`.
        """
        connection = self._connect()
        try:
            connection.request("GET", f"{self._prefix}{path}", headers={**self._headers, **headers})
            response = connection.getresponse()
            if connection.sock is not None:
                connection.sock.settimeout(silent_s)
            if response.status == HTTPStatus.OK:
                yield None, (line.decode("utf-8", "replace").rstrip("\r\n") for line in response)
            else:
                text = response.read().decode("utf-8", "replace")
                yield Response(response.status, response.headers, text), iter(())
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _close_if_stale(self) -> None:
        """Close an idle connection that the server has closed; the next request reopens it."""
        sock = self._connection.sock
        if sock is None:
            return
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(sock, select.POLLIN)
        if poll.poll(0):
            self._connection.close()


def _is_object(content: object) -> TypeGuard[dict[str, object]]:
    return isinstance(content, dict)


def _parts(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path of a URL.

    Raises: ValueError if it has no host, or a character that no URL may have.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(url)
    host.encode("idna")  # as socket does: labels of 1 to 63 characters
    return parts.scheme, host, port, parts.path


def reason_of(error: Exception) -> str:
    """Why there was no response, printable: what answers may not speak HTTP."""
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return "what listens there does not speak HTTP"
    reason = str(error) or type(error).__name__
    return reason if reason.isprintable() else ascii(reason)
