"""Duplicates are dropped whatever path is quicker, also where the numbers start again."""

from __future__ import annotations

import random

import pytest

from controller.tsn.sequence_recovery import SEQUENCE_SPACE, SequenceRecovery


@pytest.mark.parametrize("seed", range(5))
def test_every_packet_passes_once_whichever_copy_is_lost_or_late(seed: int) -> None:
    rng = random.Random(seed)
    copies = []
    for number in range(SEQUENCE_SPACE - 500, SEQUENCE_SPACE + 500):
        survivors = rng.choice(((0,), (1,), (0, 1), (0, 1)))
        copies += [(number + rng.uniform(0, 30), number % SEQUENCE_SPACE) for _ in survivors]
    recovery, passed = SequenceRecovery(history=64), []
    for _, number in sorted(copies):
        if recovery.accept(number, 0.0):
            passed.append(number)
    assert sorted(passed) == [*range(500), *range(SEQUENCE_SPACE - 500, SEQUENCE_SPACE)]
    assert (recovery.passed, recovery.rogue) == (1000, 0)
    assert recovery.discarded == len(copies) - 1000


def test_a_number_far_from_the_others_is_rogue_until_nothing_else_comes_for_a_while() -> None:
    recovery = SequenceRecovery(history=16, reset_after_s=1.0)
    assert recovery.accept(100, 0.0)
    assert not recovery.accept(5000, 0.5)
    assert not recovery.accept(84, 0.6)
    assert recovery.accept(101, 0.9)
    assert recovery.accept(5000, 2.0)
    assert recovery.rogue == 2


def test_a_history_must_fit_the_numbers() -> None:
    with pytest.raises(ValueError, match="1 to 32768"):
        SequenceRecovery(history=40_000)
