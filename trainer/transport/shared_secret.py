"""Both sides prove that they know one secret, without saying it: a challenge of each, answered with an HMAC.

It says who is there, not that nobody listens or changes what travels: that takes TLS.
Source: RFC 2104; ISO/IEC 9798-4, mutual authentication with three passes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import UsageError

LEAST_BYTES = 16

Side = Literal["edge", "cloud"]


@dataclass(frozen=True, slots=True, repr=False)
class SharedSecret:
    """The secret."""

    secret: bytes

    def proof(self, side: Side, cloud_nonce: str, edge_nonce: str, edge: str) -> str:
        """What that side answers; no other side, connection or edge could use it."""
        text = "\n".join(("paceline", side, cloud_nonce, edge_nonce, edge))
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()

    def is_proven(self, proof: str | None, side: Side, cloud_nonce: str, edge_nonce: str, edge: str) -> bool:
        """Whether that is the answer; takes as long for every wrong one."""
        return proof is not None and hmac.compare_digest(proof, self.proof(side, cloud_nonce, edge_nonce, edge))


def read_token(path: Path) -> SharedSecret:
    """The token in a file, without the white space around it.

    Raises: UsageError if there is none, or too short a one.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"The token file {path} cannot be read: {error.strerror}.") from error
    if len(secret) < LEAST_BYTES:
        raise UsageError(f"The token in {path} has {len(secret)} bytes; at least {LEAST_BYTES} are needed. Make one: "
                         f"openssl rand -hex 32 > {path}")
    return SharedSecret(secret)
