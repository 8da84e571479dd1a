"""The conflicts of all windows, counted at once, are those counted window by window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.optical.conflict_counter import ConflictCounter, starts_with

SLOTS = 12
BLOCKS = st.builds(lambda first, width: (1 << min(width, SLOTS - first)) - 1 << first, st.integers(0, SLOTS - 1),
                   st.integers(1, SLOTS))  # fmt: skip


def conflicts(blocks: list[int], width: int) -> list[int]:
    """Of each window, lowest first."""
    windows = [((1 << width) - 1) << first for first in range(SLOTS - width + 1)]
    return [sum(bool(block & window) for block in blocks) for window in windows]


@given(st.lists(BLOCKS, max_size=9), st.integers(1, SLOTS + 2), st.integers(1, 3))
def test_conflicts_are_counted_for_every_window(blocks: list[int], width: int, count: int) -> None:
    counts = ConflictCounter(SLOTS).counts(blocks, width)
    expected = conflicts(blocks, width)
    assert list(counts[::-1]) == expected + [0] * (SLOTS - len(expected))
    assert starts_with(counts, count) == sum(1 << first for first, each in enumerate(expected) if each == count)


@given(BLOCKS, st.integers(250, 600), st.integers(1, SLOTS))
def test_more_than_a_lane_can_hold_is_counted_as_many(block: int, repeats: int, width: int) -> None:
    blocks = [block] * repeats + [1]
    counts = ConflictCounter(SLOTS).counts(blocks, width)
    expected = [min(count, 255) for count in conflicts(blocks, width)]
    assert list(counts[::-1][: len(expected)]) == expected
