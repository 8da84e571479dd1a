"""Federated averaging of the edges' models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def average(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of parameters and buffers; whole numbers are rounded, of booleans the majority counts.

    What is the same on all edges stays as it is. Sums in double precision, so that the result does not depend on the
    order of the edges.
    Source: McMahan et al. 2017, algorithm 1; Thapa et al. 2022 (SplitFedV1), which averages both parts.
    """
    total = float(sum(weights))
    mean: dict[str, Tensor] = {}
    for name, first in models[0].items():
        values = [model[name] for model in models]
        if all(torch.equal(first, value) for value in values[1:]):
            mean[name] = first.clone()
            continue
        wide = torch.complex128 if first.is_complex() else torch.float64
        weighted_sum = torch.zeros(first.shape, dtype=wide)
        for value, weight in zip(values, weights, strict=True):
            weighted_sum += value.to(wide) * (weight / total)
        is_exact = first.is_floating_point() or first.is_complex()
        mean[name] = (weighted_sum if is_exact else weighted_sum.round()).to(first.dtype)
    return mean
