"""Distance correlation of two sets of vectors: 0 if they are independent, 1 if one is the other, scaled and rotated.

The bias-corrected estimate: the plain one goes to 1 with the number of values, also of independent samples.
Sources: Szekely, Rizzo and Bakirov 2007, "Measuring and testing dependence by correlation of distances", definition 3
(distance correlation); Szekely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities",
equations 3.1 and 3.4 (U-centred distances). Vepakomma et al. 2020, "NoPeek: Information leakage reduction to share
activations in distributed deep learning", section 3, use it for what a segment gives away of its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SAMPLES = 4
"""With fewer the correction is undefined."""


def distance_correlation(one: Tensor, other: Tensor) -> float:
    """Return the distance correlation of (n, p) and (n, q), the samples of which belong together; O(n^2) memory."""
    first, second = _centred_distances(one), _centred_distances(other)
    covariance, variances = _product(first, second), _product(first, first) * _product(second, second)
    if variances <= 0:
        return 0.0  # one of them is the same for all samples
    return float(min(1.0, max(0.0, covariance / variances**0.5)) ** 0.5)


def _centred_distances(samples: Tensor) -> Tensor:
    """Return the U-centred matrix (n, n) of the Euclidean distances."""
    rows = samples.to(torch.float64)
    rows = rows - rows.mean(dim=0)
    distances = torch.cdist(rows, rows).fill_diagonal_(0)
    count = len(samples)
    sums = distances.sum(dim=0)
    centred = distances - (sums[:, None] + sums[None, :]) / (count - 2) + sums.sum() / ((count - 1) * (count - 2))
    return centred.fill_diagonal_(0)


def _product(one: Tensor, other: Tensor) -> float:
    count = len(one)
    return float((one * other).sum()) / (count * (count - 3))
