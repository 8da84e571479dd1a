"""Counts the lightpaths that conflict with each window of a route.

All windows are counted at once, in integers with a lane of 8 bits for each slot. With the window of w slots at slot s
conflict the lightpaths that begin up to slot s + w - 1, without those that end below s. To both numbers a lightpath
adds a step: 1 in every lane from its first slot on, and in every lane above its last. So each lightpath costs one
addition, of an integer that depends on its block only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_LANE: Final = 8
_MOST: Final = (1 << _LANE) - 1
_DIGIT_WHERE: Final = tuple(bytes(b"01"[lane == count] for lane in range(_MOST + 1)) for count in range(4))
"""For `bytes.translate`, by count: the digit 1 for a lane of this value, 0 for others."""


class _Steps(dict[int, int]):
    """Of each block its steps: in the lower lanes that of its first slot, in the upper lanes that of its end.

    Computed when first needed.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.bits = _LANE * slots
        self.lanes = (1 << self.bits) - 1
        self._ones = self.lanes // _MOST

    def __missing__(self, block: int) -> int:
        begins, ends = (_LANE * slot for slot in ((block & -block).bit_length() - 1, block.bit_length()))
        self[block] = (self._ones >> begins << begins) + (self._ones >> ends << ends + self.bits)
        return self[block]


class ConflictCounter:
    """Counts the blocks that conflict with each window of a spectrum of so many slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._steps = _Steps(slots)

    def counts(self, blocks: Sequence[int], width: int) -> bytes:
        """Return how many of the blocks conflict with each window, the highest window first; 255: so many or more.

        Windows that reach beyond the last slot have 0.
        """
        if len(blocks) > _MOST:
            parts = self.counts(blocks[:_MOST], width), self.counts(blocks[_MOST:], width)
            return bytes(min(one + other, _MOST) for one, other in zip(*parts, strict=True))
        steps, further = self._steps, _LANE * (width - 1)
        total = sum(map(steps.__getitem__, blocks))
        begun, ended = (total & steps.lanes) >> further, total >> steps.bits & steps.lanes >> further
        return (begun - ended).to_bytes(self._slots, "big")


def starts_with(counts: bytes, count: int) -> int:
    """Return the starts of the windows with so many conflicts, 0 to 3."""
    return int(counts.translate(_DIGIT_WHERE[count]), 2)
