"""Mutual challenge-response authentication by a shared secret (HMAC), for loopback and trusted networks.

It authenticates both sides when a connection is established; it does not encrypt, and does not protect the data that
follows from being read or modified. Use TLS across machines.
Source: RFC 2104; ISO/IEC 9798-4, mutual authentication with three passes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import UsageError

MIN_BYTES = 16

Side = Literal["edge", "cloud"]


@dataclass(frozen=True, slots=True, repr=False)
class SharedSecret:
    """A secret shared by the cloud and all edges; never sent."""

    secret: bytes

    def proof(self, side: Side, cloud_nonce: str, edge_nonce: str, edge: str) -> str:
        """Return the response of `side`; it is valid for this side, connection and edge only."""
        text = "\n".join(("paceline", side, cloud_nonce, edge_nonce, edge))
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()

    def verify(self, proof: str | None, side: Side, cloud_nonce: str, edge_nonce: str, edge: str) -> bool:
        """Return whether `proof` is the response of `side`; compares in constant time."""
        return proof is not None and hmac.compare_digest(proof, self.proof(side, cloud_nonce, edge_nonce, edge))


def read_shared_secret(path: Path) -> SharedSecret:
    """Read a shared secret from a file, without surrounding white space.

    Raises: UsageError if the file cannot be read or the secret is too short.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"The token file {path} cannot be read: {error.strerror}.") from error
    if len(secret) < MIN_BYTES:
        raise UsageError(f"The token in {path} has {len(secret)} bytes; at least {MIN_BYTES} are needed. Make one "
                         "in a new file: openssl rand -hex 32 > FILE")
    return SharedSecret(secret)
