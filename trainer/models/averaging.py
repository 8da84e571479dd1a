"""The models of the edges -> one global model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def average(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean of parameters and buffers, weighted; whole numbers are rounded.

    Sums in double precision, so that the order of the edges does not show.
    Source: McMahan et al. 2017, algorithm 1; Thapa et al. 2022 (SplitFedV1), which averages both parts.
    """
    total = float(sum(weights))
    mean: dict[str, Tensor] = {}
    for name, first in models[0].items():
        whole = torch.zeros(first.shape, dtype=torch.float64)
        for model, weight in zip(models, weights, strict=True):
            whole += model[name].to(torch.float64) * (weight / total)
        mean[name] = (whole if first.is_floating_point() else whole.round()).to(first.dtype)
    return mean
