"""Federated averaging of the edges' models, and the limit of each edge's weight in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from trainer.models.partial_mean import mean_of, partial_mean


def average(models: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of parameters and buffers; whole numbers are rounded, of booleans the majority counts.

    What is the same on all edges stays as it is. The result does not depend on the order of the edges.
    Source: McMahan et al. 2017, algorithm 1; Thapa et al. 2022 (SplitFedV1), which averages both parts.
    """
    shares = shares_of(weights)
    mean: dict[str, Tensor] = {}
    for name in models[0]:  # one by one, because sums take four times as much memory
        mean |= mean_of(partial_mean([{name: model[name]} for model in models], shares))
    return mean


def shares_of(weights: Sequence[float]) -> list[float]:
    """Return the share of every model in a mean with these weights."""
    total = float(sum(weights))
    return [weight / total for weight in weights]


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
