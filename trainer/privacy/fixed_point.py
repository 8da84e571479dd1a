"""Changes of a model as elements of the ring of integers modulo 2^64, whose sums are exact whatever masks them.

An edge with the share a of all samples encodes the change d of a value since the last averaging as round(a d 2^40). The
sum over the edges that are left, divided by their shares, is the mean change; each value differs from the exact mean by
at most n 2^-41 / (sum of the shares). Shares sum to 1 or less, and changes are below 2^22, so no sum overflows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError

FRACTION_BITS = 40
LARGEST_CHANGE = 2.0**22
ELEMENT_BYTES = 8

Values = Mapping[str, Tensor]


def tolerance(edges: int, shares: float = 1.0) -> float:
    """Return the largest error of a mean change over that many edges, whose shares sum to `shares`."""
    return edges * 2.0 ** -(FRACTION_BITS + 1) / shares


def length_of(values: Values, names: Sequence[str]) -> int:
    """Return the number of elements that encode these tensors."""
    return sum(values[name].numel() * (2 if values[name].is_complex() else 1) for name in names)


def changes(values: Values, previous: Values, names: Sequence[str]) -> Tensor:
    """Return the changes of all values since the last averaging, in double precision (length,).

    What did not change is 0, as in masks of infinite values.
    """
    return _concatenate(
        torch.where(now == before, 0.0, now - before)
        for now, before in ((_wide(values[name]), _wide(previous[name])) for name in names))


def encode(change: Tensor, share: float) -> Tensor:
    """Encode changes (length,) of an edge with that share of all samples.

    Raises: DivergedError if one of them is not finite or too large.
    """
    if not bool((change.abs() < LARGEST_CHANGE).all()):
        worst = change[~(change.abs() < LARGEST_CHANGE)][0].item()
        raise DivergedError(f"A value of the model changed by {worst:g} since the last averaging; with "
                            f"--secure-aggregation at most {LARGEST_CHANGE:.0f} is possible. Lower --learning-rate.")
    return (change * (share * 2.0**FRACTION_BITS)).round().to(torch.int64)


def decode(total: Tensor, shares: float) -> Tensor:
    """Return the mean change (length,) of edges whose shares sum to `shares`.

    Raises: ProtocolError if it is larger than any edge's can be: masks are left in the sum.
    """
    mean = total.to(torch.float64) / (shares * 2.0**FRACTION_BITS)
    if bool((mean.abs() > LARGEST_CHANGE).any()):
        raise ProtocolError("The sum of the edges' layers holds values that no edge can have sent.")
    return mean


def apply(change: Tensor, previous: Values, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of these names, changed; whole numbers are rounded, of booleans the majority counts."""
    changed: dict[str, Tensor] = {}
    offset = 0
    for name in names:
        before = previous[name]
        wide = _wide(before)
        part = change[offset : offset + wide.numel()]
        offset += wide.numel()
        now = torch.where(part == 0, wide, wide + part)
        if before.is_complex():
            changed[name] = torch.view_as_complex(now.reshape(*before.shape, 2)).to(before.dtype)
        else:
            exact = now if before.is_floating_point() else now.round()
            changed[name] = exact.reshape(before.shape).to(before.dtype)
    return changed


def _wide(tensor: Tensor) -> Tensor:
    """Return the values in double precision (n,), of complex ones both parts."""
    real = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    return real.cpu().to(torch.float64).reshape(-1)


def _concatenate(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.float64), *parts])
