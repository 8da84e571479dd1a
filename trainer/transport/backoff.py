"""How long to wait before trying again: longer each time, never long, and never all at the same moment."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_S = 0.2
LONGEST_S = 5.0


def pauses_s(seed: str) -> Iterator[float]:
    """Pauses for ever: doubled each time up to LONGEST_S, then drawn from the upper half of that.

    Source: "equal jitter", Brooker 2015, "Exponential backoff and jitter".
    """
    draw = random.Random(seed)
    pause_s = FIRST_S
    while True:
        yield pause_s * (0.5 + draw.random() / 2)
        pause_s = min(2 * pause_s, LONGEST_S)
