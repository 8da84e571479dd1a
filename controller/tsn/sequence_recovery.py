"""Eliminates the duplicates of a seamless flow by sequence numbers.

Source: IEEE 802.1CB-2017 §7.4.3.4, vector recovery algorithm.
"""

from __future__ import annotations

SEQUENCE_SPACE = 1 << 16
"""Sequence numbers are 16 bits and start again at 0."""

DEFAULT_HISTORY = 1024


class SequenceRecovery:
    """Accepts each sequence number once, in whatever order its copies come.

    `history`: how many numbers behind the newest are known; older ones, and those as far ahead, are taken for rogue and
    dropped, until `reset_after_s` passes without an accepted one.
    """

    def __init__(self, history: int = DEFAULT_HISTORY, reset_after_s: float = 2.0) -> None:
        if not 1 <= history <= SEQUENCE_SPACE // 2:
            raise ValueError(f"a history of {history} is not possible; it has 1 to {SEQUENCE_SPACE // 2} numbers")
        self._history, self._reset_after_s = history, reset_after_s
        self._newest = 0
        self._seen = 0
        """Bit n: the number n before the newest was accepted."""
        self._accepted_at_s: float | None = None
        self.passed = 0
        self.discarded = 0
        self.rogue = 0

    def accept(self, number: int, now_s: float) -> bool:
        """Return whether a packet is to be passed on: it is the first with its number."""
        ahead = (number - self._newest + SEQUENCE_SPACE // 2) % SEQUENCE_SPACE - SEQUENCE_SPACE // 2
        if self._accepted_at_s is None or now_s - self._accepted_at_s > self._reset_after_s:
            self._newest, self._seen = number, 1
        elif abs(ahead) >= self._history:
            self.rogue += 1
            return False
        elif ahead > 0:
            self._newest, self._seen = number, (self._seen << ahead | 1) & (1 << self._history) - 1
        elif self._seen >> -ahead & 1:
            self.discarded += 1
            return False
        else:
            self._seen |= 1 << -ahead
        self._accepted_at_s = now_s
        self.passed += 1
        return True
