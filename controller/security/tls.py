"""Certificates and keys, and the TLS they make."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from controller.errors import StartError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate and key, and the authority that must have signed the other side's."""

    certificate: str
    key: str
    authority: str | None = None


def rest_tls(certificate: str | None, key: str | None, names: str) -> TlsFiles | None:
    """The files of the REST interface, or None if it is to speak plain http. `names`: of the two options.

    Raises: StartError if one of them is missing or they do not fit.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError(f"TLS for REST needs both {names}.", exit_code=2)
    files = TlsFiles(certificate, key)
    server_context(files)
    return files


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
        raise StartError(f"TLS: {both} are no certificate and its key: {reason_of(error)}.", exit_code=2) from error
    if files.authority is not None:
        try:
            context.load_verify_locations(files.authority)
        except OSError as error:
            sentence = f"TLS: {files.authority} holds no authority's certificate: {reason_of(error)}."
            raise StartError(sentence, exit_code=2) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def reason_of(error: OSError) -> str:
    """What went wrong, in OpenSSL's or the system's words."""
    return error.strerror or str(error) or type(error).__name__
