"""Shamir's secret sharing of 32 bytes: any `threshold` shares give the secret, fewer give nothing.

Source: Shamir 1979, "How to share a secret", section 2.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from trainer.errors import ProtocolError

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that every secret of 32 bytes is an element of the field."""
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Sequence[int]) -> list[bytes]:
    """Return the share at each of these distinct points, which are above 0."""
    coefficients = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_evaluate(coefficients, point).to_bytes(SHARE_BYTES) for point in points]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret from at least `threshold` shares by their points.

    Raises: ProtocolError if there are too few, or they are not shares of one secret.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares of a secret were revealed; {threshold} are needed.")
    points = sorted(shares)
    values = {point: int.from_bytes(shares[point]) for point in points}
    chosen = {point: values[point] for point in points[:threshold]}
    secret = _interpolate(chosen, 0)
    if secret >= 1 << (8 * SECRET_BYTES) or any(_interpolate(chosen, point) != values[point]
                                                for point in points[threshold:]):
        raise ProtocolError("The revealed shares do not belong to one secret.")
    return secret.to_bytes(SECRET_BYTES)


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def _interpolate(values: Mapping[int, int], at: int) -> int:
    """Return the value at a point of the polynomial through these values (Lagrange)."""
    total = 0
    for point, value in values.items():
        numerator = denominator = 1
        for other in values:
            if other != point:
                numerator = numerator * (at - other) % PRIME
                denominator = denominator * (point - other) % PRIME
        total += value * numerator * pow(denominator, -1, PRIME)
    return total % PRIME
