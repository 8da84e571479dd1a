"""Weighted sums of models in parts that can be made on several machines and joined in any order.

A sum is kept as two numbers of double precision, of which the second has what the first has rounded off. So the mean,
rounded to the type of the model, does not depend on how the models were divided into parts.
Source: Knuth 1998, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B (the error of a sum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Sum = tuple[Tensor, Tensor]

CHUNK = 16_384
"""Values that are summed over all models before the next ones, so that they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class PartialMean:
    """The sum of share x model over some models. `same`: values that are the same in all of them; `sums`: of others.

    `types`: of all values, in the order of the model.
    """

    shares: tuple[float, ...]
    types: Mapping[str, torch.dtype]
    same: Mapping[str, Tensor]
    sums: Mapping[str, Sum]

    def sum_of(self, name: str) -> Sum:
        """Return the sum of a value."""
        found = self.sums.get(name)
        return found if found is not None else _summed([self.same[name]] * len(self.shares), self.shares)


def partial_mean(models: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> PartialMean:
    """Return the sum of these models by their shares in the mean."""
    same, sums = {}, {}
    for name, first in models[0].items():
        values = [model[name] for model in models]
        if all(torch.equal(first, value) for value in values[1:]):
            same[name] = first
        else:
            sums[name] = _summed(values, shares)
    return PartialMean(tuple(shares), {name: value.dtype for name, value in models[0].items()}, same, sums)


def joined(one: PartialMean, other: PartialMean) -> PartialMean:
    """Return the sum of the models of both."""
    same, sums = {}, {}
    for name in one.types:
        if name in one.same and name in other.same and torch.equal(one.same[name], other.same[name]):
            same[name] = one.same[name]
        else:
            (high, low), (added, further) = one.sum_of(name), other.sum_of(name)
            high, error = _exact_sum(high, added)
            sums[name] = high, low + further + error
    return PartialMean((*one.shares, *other.shares), one.types, same, sums)


def mean_of(total: PartialMean) -> dict[str, Tensor]:
    """Return the mean, of a sum over all models; whole numbers are rounded, of booleans the majority counts.

    What is the same in all models stays as it is.
    """
    mean = {}
    for name, dtype in total.types.items():
        if name in total.same:
            mean[name] = total.same[name].clone()
            continue
        high, low = total.sums[name]
        whole = high + torch.where(torch.isfinite(high), low, 0.0)
        if dtype.is_complex:
            mean[name] = torch.view_as_complex(whole).to(dtype)
        else:
            mean[name] = (whole if dtype.is_floating_point else whole.round()).to(dtype)
    return mean


def _summed(values: Sequence[Tensor], shares: Sequence[float]) -> Sum:
    first = _real(values[0])
    high, low = (torch.empty(first.shape, dtype=torch.float64) for _ in range(2))
    flat = [_real(value).reshape(-1) for value in values]
    for start in range(0, first.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        high.view(-1)[part], low.view(-1)[part] = _sum_of_parts([value[part] for value in flat], shares)
    return high, low


def _sum_of_parts(parts: Sequence[Tensor], shares: Sequence[float]) -> Sum:
    """Return what `_exact_sum` of one after the other does, without new memory for every operation."""
    high = parts[0].to(torch.float64) * shares[0]
    low, total, error = torch.zeros_like(high), torch.empty_like(high), torch.empty_like(high)
    for part, share in zip(parts[1:], shares[1:], strict=True):
        added = part.to(torch.float64, copy=True).mul_(share)
        torch.add(high, added, out=total)
        torch.sub(total, high, out=error)
        added.sub_(error)
        torch.sub(total, error, out=error)
        torch.sub(high, error, out=error)
        low.add_(added.add_(error))
        high, total = total, high
    return high, low


def _exact_sum(one: Tensor, other: Tensor) -> Sum:
    """Return the rounded sum and its error."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value
