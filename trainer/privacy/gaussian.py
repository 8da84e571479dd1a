"""The Gaussian mechanism: clipped vectors, noise from a cryptographic generator, and dp-accounting's account of it.

k releases with noise multiplier z are as one with z / sqrt(k), for which the account is exact.
Sources: Balle and Wang 2018, "Improving the Gaussian Mechanism for Differential Privacy", theorem 8 (epsilon of a
standard deviation); Dong, Roth and Su 2022, "Gaussian Differential Privacy", corollary 3.3 (composition).
"""

from __future__ import annotations

import math
import secrets

import torch
from torch import Tensor

from trainer.errors import UsageError
from trainer.privacy.key_agreement import KEY_BYTES, expand

MISSING = "--dp needs the package dp-accounting: pip install 'paceline[dp]'"
MANTISSA_BITS = 53


def noise_multiplier(epsilon: float, delta: float, releases: int) -> float:
    """Return the least standard deviation, in sensitivities, with which so many releases cost epsilon at delta.

    Raises: UsageError if dp-accounting is missing.
    """
    try:
        from dp_accounting import get_sigma_gaussian
    except ImportError as error:
        raise UsageError(MISSING) from error
    return math.sqrt(releases) * float(get_sigma_gaussian(epsilon, delta))


def epsilon_spent(multiplier: float, delta: float, releases: int) -> float:
    """Return the epsilon at delta of so many releases."""
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(multiplier / math.sqrt(releases), delta)) if releases else 0.0


def clip(vector: Tensor, norm: float) -> Tensor:
    """Return the vector, shortened to this L2 norm if it is longer."""
    length = float(vector.norm())
    return vector if length <= norm else vector * (norm / length)


def standard_normal(count: int) -> Tensor:
    """Return that many independent standard normal numbers, in double precision, that cannot be predicted.

    Source: Box and Muller 1958.
    """
    pairs = -(-count // 2)
    bits = expand(secrets.token_bytes(KEY_BYTES), 2 * pairs) & ((1 << MANTISSA_BITS) - 1)
    uniform = (bits.to(torch.float64) + 0.5) / 2.0**MANTISSA_BITS
    radius, angle = (-2 * uniform[:pairs].log()).sqrt(), 2 * math.pi * uniform[pairs:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]
