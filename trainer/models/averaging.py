"""Federated averaging of the edges' models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def average(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of parameters and buffers; integers are rounded.

    Sums in double precision, so that the result does not depend on the order of the edges.
    Source: McMahan et al. 2017, algorithm 1; Thapa et al. 2022 (SplitFedV1), which averages both parts.
    """
    total = float(sum(weights))
    mean: dict[str, Tensor] = {}
    for name, first in models[0].items():
        weighted_sum = torch.zeros(first.shape, dtype=torch.float64)
        for model, weight in zip(models, weights, strict=True):
            weighted_sum += model[name].to(torch.float64) * (weight / total)
        mean[name] = (weighted_sum if first.is_floating_point() else weighted_sum.round()).to(first.dtype)
    return mean
