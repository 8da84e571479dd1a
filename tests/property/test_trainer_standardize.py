"""Pooled statistics equal those of all values together, in whatever pieces they come."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.standardize import Statistics, choose, pool_channels, summarize


def statistics_of(values: list[int]) -> Statistics:
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return summarize(images, torch.zeros(len(values), dtype=torch.int64), 3)


pieces = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=20), min_size=1, max_size=5)


@given(pieces)
def test_pooling_is_exact(parts: list[list[int]]) -> None:
    pooled = pool_channels([statistics_of(part).plain for part in parts])[0]
    whole = statistics_of([value for part in parts for value in part]).plain[0]
    assert pooled.count == whole.count
    assert (pooled.minimum, pooled.maximum) == (whole.minimum, whole.maximum)
    assert pooled.mean == pytest.approx(whole.mean)
    assert pooled.m2 == pytest.approx(whole.m2, abs=1e-6)
    assert pooled.m3 == pytest.approx(whole.m3, rel=1e-6, abs=1e-3)


def test_a_long_tail_calls_for_the_logarithm_and_a_symmetric_shape_does_not() -> None:
    assert choose([statistics_of([0, 1, 1, 2, 2, 3, 4, 250])]).method == "log-normalize"
    assert choose([statistics_of([100, 110, 120, 130, 140])]).method == "normalize"


def test_values_that_are_all_equal_are_not_divided_by_zero() -> None:
    assert choose([statistics_of([7, 7, 7])]).deviation == (1.0,)
