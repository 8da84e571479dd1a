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
from dataclasses import dataclass
from typing import Any

import eventlet.green.ssl

from controller.errors import StartError

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0

Handle = Callable[[Any, Any], None]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate and key, and the authority that must have signed the other side's."""

    certificate: str
    key: str
    authority: str | None = None


def server_context(files: TlsFiles, make: Callable[[int], ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """TLS 1.2 or later with our certificate; with an authority, clients must have a certificate of it.

    Raises: StartError naming the file that is wrong.
    """
    context = make(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
    except OSError as error:  # ssl.SSLError is one
        both = f"{files.certificate} and {files.key}"
        raise StartError(f"TLS: {both} are no certificate and its key: {_reason(error)}.", exit_code=2) from error
    if files.authority is not None:
        try:
            context.load_verify_locations(files.authority)
        except OSError as error:
            sentence = f"TLS: {files.authority} holds no authority's certificate: {_reason(error)}."
            raise StartError(sentence, exit_code=2) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


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
            log.warning("refused a switch at %s: TLS: %s", address[0], _reason(error))
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
            raise ConnectionAbortedError(_reason(error)) from error
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secure, name)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
