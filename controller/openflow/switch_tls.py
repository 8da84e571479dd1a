"""TLS towards switches, on Ryu's hub: OpenFlow starts only with switches that show a certificate of the authority.

The switch client then also checks that the certificate names the switch (`certificate_names`).

Ryu 4.34's own TLS serves only one switch: the first connection takes the settings out of a shared dictionary, and
every later one falls through to `ssl.wrap_socket` without a certificate (ryu/lib/hub.py, StreamServer). It also
retries a failed read for ever.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.openflow.eventlet_quiet import eventlet
from controller.security.tls import TlsFiles, error_text, server_context

log = logging.getLogger(__name__)

Serve = Callable[[Any, Any, Callable[[], None]], None]
"""Serves a connection (socket, address); calls the function when its handshake is complete."""


def with_tls(serve: Serve, files: TlsFiles, timeout_s: float) -> Serve:
    """Wrap a connection handler: it is called after a successful TLS handshake only.

    `timeout_s`: how long the peer may pause within the handshake.

    Raises: StartError if the files are wrong.
    """
    context = server_context(files, eventlet.green.ssl.SSLContext)

    def accept(connection: Any, address: Any, on_established: Callable[[], None]) -> None:
        tls_socket = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        tls_socket.settimeout(timeout_s)
        try:
            tls_socket.do_handshake()
            if files.authority is not None:
                require_client_usage(tls_socket.getpeercert(binary_form=True) or b"")
        except OSError as error:
            log.warning("refused a switch at %s: TLS handshake failed: %s", address[0], error_text(error))
            with contextlib.suppress(OSError):
                tls_socket.close()
            return
        names = None if files.authority is None else certificate_names(tls_socket.getpeercert() or {})
        serve(_TlsSocket(tls_socket, names), address, on_established)

    return accept


def require_client_usage(certificate: bytes) -> None:
    """Check that a certificate (DER) is made for clients: OpenSSL accepts one that does not say what it is for.

    Source: RFC 5280 §4.2.1.12.

    Raises: SSLError.
    """
    try:
        usage = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound as error:
        raise ssl.SSLError("its certificate has no extended key usage; a switch needs clientAuth") from error
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError) as error:
        raise ssl.SSLError(f"its certificate cannot be read: {error}") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage.value:
        raise ssl.SSLError("its certificate is not for clients (extended key usage clientAuth)")


def certificate_names(certificate: Mapping[str, Any]) -> frozenset[str]:
    """The common name and the DNS names of a certificate in the form of `getpeercert`.

    An Open vSwitch process uses one certificate for all its switches; that certificate names them all.
    """
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common_names = {value for kind, value in subject if kind == "commonName"}
    return frozenset(common_names | {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"})


def peer_names_of(connection: object) -> frozenset[str] | None:
    """The names in the peer's certificate; None: no client certificate was required."""
    return connection.peer_names if isinstance(connection, _TlsSocket) else None


class _TlsSocket:
    """A TLS socket for Ryu, which retries SSLError: a permanent read error is raised as ConnectionAbortedError."""

    def __init__(self, tls_socket: Any, peer_names: frozenset[str] | None) -> None:
        """`peer_names`: names in the switch's certificate; None: no client certificate was required."""
        self._socket = tls_socket
        self.peer_names = peer_names

    def recv(self, size: int) -> bytes:
        try:
            received: bytes = self._socket.recv(size)
        except ssl.SSLError as error:
            raise ConnectionAbortedError(error_text(error)) from error
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
