"""Which cuts have segments that depend on a sample alone: sent once, they hold for every epoch.

The layers before the cut are frozen, draw no random numbers (dropout), compute no statistics of a batch and keep no
state. That is tried: a copy of each layer runs in training mode twice with other random numbers, and on fewer samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.models.boundary import Affine, Boundary
from trainer.models.frozen import trained_parameters
from trainer.models.values import Values, detached, is_differentiable, tensors_of

FEW, MORE = 2, 3
"""Samples of the trial."""
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5


def constant_cuts(
    layers: Sequence[nn.Module], boundaries: Sequence[Boundary], batch: Callable[[int], Tensor]
) -> tuple[bool, ...]:
    """Return for every cut 0..L whether its segment's rows depend on their samples alone; does not change the layers.

    `batch` returns the input of that many samples.
    """
    samples = batch(MORE)
    values: Values = samples
    few: Values = samples[:FEW].clone()
    is_constant = True
    constant = [_has_rows(boundaries[0])]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for layer, boundary in zip(layers, boundaries[1:], strict=True):
            is_constant = is_constant and not trained_parameters(layer)
            if is_constant:
                again = _run(layer, values, 2)
                values, few = _run(layer, values, 1), _run(layer, few, 1)
                is_constant = _are_close(values, again) and (not _has_rows(boundary) or _are_close(_first(values), few))
            constant.append(is_constant and _has_rows(boundary))
    return tuple(constant)


def _run(layer: nn.Module, values: Values, seed: int) -> Values:
    own = copy.deepcopy(layer).train()
    torch.default_generator.manual_seed(seed)
    return detached(own(copy.deepcopy(values)))


def _has_rows(boundary: Boundary) -> bool:
    """Return whether the first dimension of every tensor counts the samples, and no other does."""
    return all(spec.sides and spec.sides[0] == Affine(0, 1) and not any(side.per_sample for side in spec.sides[1:])
               for spec in boundary.tensors)


def _first(values: Values) -> list[Tensor]:
    return [tensor[:FEW] for tensor in tensors_of(values)]


def _are_close(values: Values, others: Values) -> bool:
    return all(
        torch.allclose(one, other, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE) if is_differentiable(one)
        else torch.equal(one, other)
        for one, other in zip(tensors_of(values), tensors_of(others), strict=True)
    )
