"""Federated averaging of the edges' models, and the limit of each edge's weight in it."""

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


LARGEST_SHARE = 0.5
LARGEST_SHARE_OF_TWO = 10 / 11


def limited_weights(samples: Sequence[int]) -> list[float]:
    """Return weights in proportion to samples, but none above all others together (of two, above 10 times the other).

    The number of samples is what an edge says of itself. Without a limit one that says 10^9 replaces the global model
    by its own; no evidence of a number of samples reaches the cloud.
    """
    weights = [float(count) for count in samples]
    if len(weights) < 2:
        return weights
    share = LARGEST_SHARE if len(weights) > 2 else LARGEST_SHARE_OF_TWO
    largest = weights.index(max(weights))
    others = sum(weights) - weights[largest]
    if others > 0:
        weights[largest] = min(weights[largest], others * share / (1 - share))
    return weights
