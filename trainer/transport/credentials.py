"""How cloud and edges know each other: certificates of one authority (TLS 1.3), a common token, both, or neither."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UsageError
from trainer.transport.shared_secret import SharedSecret, read_token


@dataclass(frozen=True, slots=True)
class TransportCredentials:
    """What one side has. `context` None: no TLS. `cloud_name`: whom an edge wants to meet."""

    context: ssl.SSLContext | None = None
    token: SharedSecret | None = None
    cloud_name: str = "cloud"


NOBODY = TransportCredentials()


def credentials(
    listens: bool, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None,
    cloud_name: str = "cloud",
) -> TransportCredentials:
    """From the files named on the command line; `listens`: for the cloud.

    Raises: UsageError if only some of the TLS files are named or one cannot be used.
    """
    token = read_token(token_file) if token_file else None
    if ca is None and cert is None and key is None:
        return TransportCredentials(token=token)
    if ca is None or cert is None or key is None:
        raise UsageError("TLS needs all three: --tls-ca, --tls-cert and --tls-key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if listens:
        context.num_tickets = 0  # nobody resumes a session; no bytes for it
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"The TLS files {ca}, {cert} and {key} cannot be used: {error}.") from error
    return TransportCredentials(context, token, cloud_name)
