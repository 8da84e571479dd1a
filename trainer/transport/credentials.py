"""Authentication of cloud and edges: certificates of one authority (TLS 1.3), a shared secret, both, or neither."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UsageError
from trainer.transport.shared_secret import SharedSecret, read_shared_secret


@dataclass(frozen=True, slots=True)
class TransportCredentials:
    """Credentials of one side. `context` None: no TLS. `cloud_name`: the name an edge requires in the certificate."""

    context: ssl.SSLContext | None = None
    shared_secret: SharedSecret | None = None
    cloud_name: str = "cloud"


NO_CREDENTIALS = TransportCredentials()


def load_credentials(
    listens: bool, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None,
    cloud_name: str = "cloud",
) -> TransportCredentials:
    """Load the files named on the command line; `listens`: True for the cloud.

    Raises: UsageError if only some of the TLS files are given or one cannot be used.
    """
    secret = read_shared_secret(token_file) if token_file else None
    if ca is None and cert is None and key is None:
        return TransportCredentials(shared_secret=secret)
    if ca is None or cert is None or key is None:
        raise UsageError("TLS needs all three: --tls-ca, --tls-cert and --tls-key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if listens:
        context.num_tickets = 0  # no session resumption, so no bytes for tickets
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"The TLS files {ca}, {cert} and {key} cannot be used: {error}.") from error
    return TransportCredentials(context, secret, cloud_name)
