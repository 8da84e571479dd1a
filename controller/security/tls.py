"""TLS server contexts from certificate files."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from controller.errors import StartError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: certificate and key of this process, and the CA that must have signed the peer's certificate."""

    certificate: str
    key: str
    authority: str | None = None


def rest_tls(certificate: str | None, key: str | None, names: str) -> TlsFiles | None:
    """Files of the REST interface, or None for plain HTTP. `names`: the two options, for the error message.

    Raises: StartError if one of them is missing or the key does not belong to the certificate.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError(f"TLS for REST needs both {names}.", exit_code=2)
    files = TlsFiles(certificate, key)
    server_context(files)
    return files


def server_context(files: TlsFiles, make: Callable[[int], ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """Server context for TLS 1.2 or later; with an authority, clients must present a certificate signed by it.

    Raises: StartError naming the invalid file.
    """
    context = make(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
    except OSError as error:  # ssl.SSLError is one
        pair = f"{files.certificate} and {files.key}"
        sentence = f"TLS: {pair} are not a certificate and its key: {error_text(error)}."
        raise StartError(sentence, exit_code=2) from error
    if files.authority is not None:
        try:
            context.load_verify_locations(files.authority)
        except OSError as error:
            sentence = f"TLS: {files.authority} contains no CA certificate: {error_text(error)}."
            raise StartError(sentence, exit_code=2) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def error_text(error: OSError) -> str:
    """The message of OpenSSL or the operating system."""
    return error.strerror or str(error) or type(error).__name__
