"""Pooled statistics, and the standardization chosen from them, equal those of all values together."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.data import standardization
from trainer.data.standardization import (
    SKEWNESS_LIMIT,
    Statistics,
    choose_standardization,
    class_skew,
    feature_choices,
    pool_all,
    standardize,
    summarize,
)


def statistics_of(inputs: Tensor) -> Statistics:
    return summarize(inputs, torch.zeros(len(inputs), dtype=torch.int64), 3)


def column(*values: float) -> Statistics:
    return statistics_of(torch.tensor(values, dtype=torch.float64).view(-1, 1))


@st.composite
def shares(draw: st.DrawFn) -> list[Tensor]:
    """The samples of several edges; every feature has its own location, scale and skewness."""
    features = draw(st.integers(1, 3))
    sides = draw(st.sampled_from([(), (4,), (2, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    shape = (features, *[1] * len(sides))
    location = torch.tensor(draw(st.lists(st.sampled_from([0.0, -3.0, 1e4]), min_size=features, max_size=features)))
    scale = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.01, 7.0]), min_size=features, max_size=features)))
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    power = draw(st.sampled_from([1, 4]))
    return [
        torch.randn(size, features, *sides, generator=generator, dtype=torch.float64).abs() ** power
        * scale.view(shape) + location.view(shape)
        for size in sizes
    ]


@settings(deadline=None, max_examples=50)
@given(shares())
def test_pooling_is_exact(parts: list[Tensor]) -> None:
    pooled = pool_all([statistics_of(part).plain for part in parts])
    values = torch.cat(parts).transpose(0, 1).flatten(1)
    assert pooled.count == values.shape[1]
    for feature, column in enumerate(values):
        deviations = column - column.mean()
        size = column.abs().max().item()
        assert (pooled.minimum[feature], pooled.maximum[feature]) == (column.min().item(), column.max().item())
        assert pooled.mean[feature] == pytest.approx(column.mean().item())
        assert pooled.m2[feature] == pytest.approx((deviations**2).sum().item(), rel=1e-6, abs=1e-12 * size**2)
        assert pooled.m3[feature] == pytest.approx((deviations**3).sum().item(), rel=1e-6, abs=1e-12 * size**3)


@settings(deadline=None, max_examples=50)
@given(shares())
def test_the_choice_from_pooled_statistics_equals_that_from_all_values(parts: list[Tensor]) -> None:
    whole = [statistics_of(torch.cat(parts))]
    for choice in feature_choices(whole):
        assume(abs(abs(choice.skewness) - SKEWNESS_LIMIT) > 1e-3)
        assume(not math.isclose(abs(choice.skewness), abs(choice.skewness_logged), rel_tol=1e-3))
    pooled, together = choose_standardization([statistics_of(part) for part in parts]), choose_standardization(whole)
    assert pooled.logged == together.logged
    assert pooled.mean == pytest.approx(together.mean)
    assert pooled.deviation == pytest.approx(together.deviation)


@settings(deadline=None, max_examples=50)
@given(shares())
def test_standardized_features_have_mean_0_and_deviation_1_over_all_edges(parts: list[Tensor]) -> None:
    standardization = choose_standardization([statistics_of(part) for part in parts])
    values = standardize(torch.cat(parts), standardization).transpose(0, 1).flatten(1).double()
    for feature in values:
        constant = feature.abs().max().item() < 1e-4
        assert abs(feature.mean().item()) < 1e-5
        assert constant or feature.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(shares(), st.integers(1, 40))
def test_statistics_do_not_depend_on_the_size_of_the_chunks(parts: list[Tensor], chunk_values: int) -> None:
    inputs = torch.cat(parts)
    whole = statistics_of(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standardization, "CHUNK_VALUES", chunk_values)
        streamed = statistics_of(inputs)
        values = standardize(inputs, choose_standardization([streamed], "zscore"))
    size = inputs.abs().max().item()
    for chunked, at_once in ((streamed.plain, whole.plain), (streamed.logged, whole.logged)):
        assert (chunked.count, chunked.minimum, chunked.maximum) == (at_once.count, at_once.minimum, at_once.maximum)
        assert chunked.mean == pytest.approx(at_once.mean, rel=1e-12, abs=1e-12 * size)
        assert chunked.m2 == pytest.approx(at_once.m2, rel=1e-6, abs=1e-12 * size**2)
        assert chunked.m3 == pytest.approx(at_once.m3, rel=1e-6, abs=1e-12 * size**3)
    expected = standardize(inputs, choose_standardization([whole], "zscore"))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_each_feature_is_standardized_by_its_own_distribution() -> None:
    tailed, symmetric = [0, 1, 1, 2, 2, 3, 4, 250], [100, 110, 120, 130, 140, 130, 120, 110]
    negative = [-value for value in tailed]
    inputs = torch.tensor([tailed, symmetric, negative], dtype=torch.float64).T
    standardization = choose_standardization([statistics_of(inputs)])
    assert (standardization.method, standardization.logged) == ("mixed", (True, False, False))
    assert "1 of 3 as logarithms" in standardization.reason
    assert [choice.logged for choice in feature_choices([statistics_of(inputs)])] == [True, False, False]
    assert choose_standardization([column(*tailed)]).method == "log-normalize"
    assert choose_standardization([column(*symmetric)]).method == "normalize"


def test_values_that_are_all_equal_are_not_divided_by_zero() -> None:
    assert choose_standardization([column(7, 7, 7)]).deviation == (1.0,)
    assert choose_standardization([column(*[0.1 + 0.2, 0.3] * 5)]).deviation == (1.0,)


def test_a_value_below_the_pooled_minimum_still_has_a_logarithm() -> None:
    standardization = choose_standardization([column(0, 1, 1, 2, 2, 3, 4, 250)])
    assert standardize(torch.tensor([[-5.0]]), standardization).isfinite().all()


@pytest.mark.parametrize(("wanted", "method", "expected"), [
    ("none", "none", [[0.0], [4.0], [8.0]]),
    ("minmax", "minmax", [[0.0], [0.5], [1.0]]),
    ("zscore", "normalize", [[-(1.5**0.5)], [0.0], [1.5**0.5]]),
    ("unit-norm", "unit-norm", [[0.0], [1.0], [1.0]]),
])
def test_a_configured_method_is_applied(wanted: str, method: str, expected: list[list[float]]) -> None:
    standardization = choose_standardization([column(0, 4, 8)], wanted)
    assert standardization.method == method
    assert standardization.reason.endswith("as configured")
    standardized = standardize(torch.tensor([[0.0], [4.0], [8.0]]), standardization)
    torch.testing.assert_close(standardized, torch.tensor(expected))


def test_logarithms_are_taken_of_all_features_if_configured() -> None:
    standardization = choose_standardization([column(-1, 0, 1)], "log")
    assert (standardization.method, standardization.logged) == ("log-normalize", (True,))


def test_a_sample_of_several_features_has_unit_norm() -> None:
    inputs = torch.tensor([[[3.0], [4.0]], [[0.0], [0.0]]])
    standardization = choose_standardization([statistics_of(inputs.double())], "unit-norm")
    torch.testing.assert_close(standardize(inputs, standardization).flatten(1), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_whole_numbers_that_the_model_takes_stay_as_they_are() -> None:
    ids = torch.tensor([[3, 89], [0, 7]])
    standardization = choose_standardization([statistics_of(ids.double())], "auto", integers=True)
    assert (standardization.method, "whole numbers" in standardization.reason) == ("none", True)
    assert standardize(ids, standardization) is ids
    assert choose_standardization([statistics_of(ids.double())], "auto").method == "normalize"


def test_class_skew_is_the_share_of_samples_that_would_have_to_change_class() -> None:
    assert class_skew([[50, 50], [5, 5]]) == 0
    assert class_skew([[10, 0], [0, 10]]) == 0.5
    assert class_skew([[10], [0, 10]]) == 0.5
    assert class_skew([[0, 0], [0, 0]]) == class_skew([]) == 0
    assert class_skew([[30, 10], [10, 30]]) == 0.25


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_counted_bytes_have_the_moments_of_their_values(samples: int, features: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (samples, features, 5), generator=generator, dtype=torch.uint8)
    counted, streamed = statistics_of(values), statistics_of(values.double())
    for counts, at_once in ((counted.plain, streamed.plain), (counted.logged, streamed.logged)):
        assert (counts.count, counts.minimum, counts.maximum) == (at_once.count, at_once.minimum, at_once.maximum)
        assert counts.mean == pytest.approx(at_once.mean, rel=1e-12)
        assert counts.m2 == pytest.approx(at_once.m2, rel=1e-9)
        assert counts.m3 == pytest.approx(at_once.m3, rel=1e-9, abs=1e-9 * 255**3)
