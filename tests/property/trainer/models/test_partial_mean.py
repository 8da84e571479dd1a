"""A mean of models that is made in parts, on several machines, is that of all at once, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.averaging import average, shares_of
from trainer.models.partial_mean import PartialMean, joined, mean_of, partial_mean

WEIGHTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=7)
VALUES = st.floats(-1e6, 1e6, width=32)


@st.composite
def divided(draw: st.DrawFn) -> tuple[list[dict[str, Tensor]], list[float], list[list[int]]]:
    """Models of several types, weights, and a division of the models into parts."""
    weights = draw(WEIGHTS)
    models = [{
        "weight": torch.tensor(draw(st.lists(VALUES, min_size=3, max_size=3)), dtype=torch.float32),
        "half": torch.tensor(draw(st.lists(VALUES, min_size=2, max_size=2)), dtype=torch.bfloat16),
        "same": torch.tensor([0.1, -0.7], dtype=torch.float64),
        "count": torch.tensor(draw(st.integers(0, 9))),
        "mask": torch.tensor([draw(st.sampled_from([0.0, float("-inf")]))]),
        "wave": torch.tensor([complex(draw(VALUES), draw(VALUES))], dtype=torch.complex64),
    } for _ in weights]
    order = draw(st.permutations(range(len(weights))))
    cuts = sorted(draw(st.sets(st.integers(1, len(weights)), max_size=3)) | {0, len(weights)})
    return models, [float(weight) for weight in weights], [
        list(order[first:last]) for first, last in pairwise(cuts)]


@settings(deadline=None)
@given(divided())
def test_the_mean_of_parts_is_that_of_all_models(
    problem: tuple[list[dict[str, Tensor]], list[float], list[list[int]]]
) -> None:
    models, weights, parts = problem
    shares = shares_of(weights)
    sums: list[PartialMean] = [partial_mean([models[number] for number in part], [shares[number] for number in part])
                               for part in parts]
    mean, expected = mean_of(reduce(joined, sums)), average(models, weights)
    assert list(mean) == list(expected)
    for name, value in expected.items():
        assert torch.equal(mean[name], value), name
        assert mean[name].dtype == models[0][name].dtype
    exact = sum(Fraction(float(model["weight"][0])) * Fraction(share)
                for model, share in zip(models, shares, strict=True))
    assert float(mean["weight"][0]) == pytest.approx(float(exact), rel=1e-7, abs=1e-9)
