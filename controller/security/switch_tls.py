"""TLS towards switches, on Ryu's hub: only a switch with a certificate of the authority gets as far as OpenFlow.

Ryu 4.34 has TLS of its own, which serves one switch: the first connection takes the settings out of a shared
dictionary, and every later one falls through to `ssl.wrap_socket` without a certificate (ryu/lib/hub.py, StreamServer).
It also repeats a read for ever that failed for good. Import controller.southbound first: it brings eventlet in quietly.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Any

import eventlet.green.ssl

from controller.security.tls import TlsFiles, reason_of, server_context

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0

Handle = Callable[[Any, Any], None]


def secured(handle: Handle, files: TlsFiles) -> Handle:
    """What to do with an accepted connection so that `handle` gets it only after both sides have shown who they are.

    Raises: StartError if the files are wrong.
    """
    context = server_context(files, eventlet.green.ssl.SSLContext)

    def greet(connection: Any, address: Any) -> None:
        secure = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        secure.settimeout(HANDSHAKE_S)
        try:
            secure.do_handshake()
        except OSError as error:
            log.warning("refused a switch at %s: TLS: %s", address[0], reason_of(error))
            with contextlib.suppress(OSError):
                secure.close()
            return
        handle(_Connection(secure), address)

    return greet


class _Connection:
    """The socket as Ryu wants it: what fails for good must not look like a read that may be tried again."""

    def __init__(self, secure: Any) -> None:
        self._secure = secure

    def recv(self, size: int) -> bytes:
        try:
            received: bytes = self._secure.recv(size)
        except ssl.SSLError as error:
            raise ConnectionAbortedError(reason_of(error)) from error
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secure, name)
