"""TLS towards switches, on Ryu's hub: only a switch with a certificate of the authority gets as far as OpenFlow.

And only one whose certificate bears its name gets any further (`names_in`).

Ryu 4.34 has TLS of its own, which serves one switch: the first connection takes the settings out of a shared
dictionary, and every later one falls through to `ssl.wrap_socket` without a certificate (ryu/lib/hub.py, StreamServer).
It also repeats a read for ever that failed for good.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from controller.openflow.eventlet_quiet import eventlet
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
        names = None if files.authority is None else names_in(secure.getpeercert() or {})
        handle(_Connection(secure, names), address)

    return greet


def names_in(certificate: Mapping[str, Any]) -> frozenset[str]:
    """Whom a certificate speaks for, as `getpeercert` gives it: its common name and its DNS names.

    One Open vSwitch shows one certificate for all switches in it; that one names them all.
    """
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common = {value for kind, value in subject if kind == "commonName"}
    return frozenset(common | {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"})


def peer_names_of(connection: object) -> frozenset[str] | None:
    """Whom the other side's certificate speaks for; None: it had to show none."""
    return connection.peer_names if isinstance(connection, _Connection) else None


class _Connection:
    """The socket as Ryu wants it: what fails for good must not look like a read that may be tried again."""

    def __init__(self, secure: Any, peer_names: frozenset[str] | None) -> None:
        """`peer_names`: whom the switch's certificate speaks for; None: it had to show none."""
        self._secure = secure
        self.peer_names = peer_names

    def recv(self, size: int) -> bytes:
        try:
            received: bytes = self._secure.recv(size)
        except ssl.SSLError as error:
            raise ConnectionAbortedError(reason_of(error)) from error
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secure, name)
