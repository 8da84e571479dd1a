"""Exponential backoff with jitter and an upper limit."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_S = 0.2
MAX_S = 5.0


def pauses_s(seed: str) -> Iterator[float]:
    """Yield pauses without end: a value doubled each time up to MAX_S, reduced at random by up to half.

    Source: "equal jitter", Brooker 2015, "Exponential backoff and jitter".
    """
    generator = random.Random(seed)
    pause_s = FIRST_S
    while True:
        yield pause_s * (0.5 + generator.random() / 2)
        pause_s = min(2 * pause_s, MAX_S)
