"""An HTTP/1.1 client for loads: one connection kept open, and so little work that it is not what is measured."""

from __future__ import annotations

import json
import socket
from typing import Any

READ_BYTES = 65536


class KeepAlive:
    """One connection to 127.0.0.1; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Send it and wait for the body of a good answer.

        Raises: RuntimeError if it is not a good one, ConnectionError.
        """
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            self._receive()
        status, *fields = self._read[:end].decode("latin-1").split("\r\n")
        named = dict(field.lower().split(": ", 1) for field in fields)
        self._read = self._read[end + 4 :]
        size = int(named["content-length"])
        while len(self._read) < size:
            self._receive()
        answer, self._read = self._read[:size], self._read[size:]
        if not status.split()[1].startswith("2"):
            raise RuntimeError(f"{path}: {status}: {answer.decode()}")
        return answer

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _receive(self) -> None:
        received = self._socket.recv(READ_BYTES)
        if not received:
            raise ConnectionError("the server has hung up")
        self._read += received
