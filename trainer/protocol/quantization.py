"""Quantization in groups: evenly spaced values between the minimum and maximum of each group.

The groups are the channels (dimension 1 of the segment) if each has at least GROUP_VALUES values, else the samples,
else the whole segment. So a group's minimum and step cost at most 2/GROUP_VALUES of the fp32 size, except in segments
of less than GROUP_VALUES values.
Source: Jacob et al. 2018, "Quantization and training of neural networks", equation 1, with a real offset.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError

GROUP_VALUES = 128
MAX_MAGNITUDE = 1e38
"""Above this the difference of two values may overflow fp32."""

MAX_CODE = 255
MIDDLE = 128
"""Codes 0..255 are kept as -128..127: PyTorch converts to signed bytes several times faster."""


def group_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the per-group values, with as many dimensions as the segment."""
    values = math.prod(shape)
    for dimension in (1, 0):
        if len(shape) > dimension and shape[dimension] and values // shape[dimension] >= GROUP_VALUES:
            return tuple(side if axis == dimension else 1 for axis, side in enumerate(shape))
    return (1,) * len(shape)


def group_bytes(shape: tuple[int, ...]) -> int:
    """Return the bytes of the minima and steps of all groups."""
    return 2 * 4 * math.prod(group_shape(shape))


def group_range(name: str, segment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and maximum of every group.

    Raises: ProtocolError if the segment is empty, DivergedError as `check_range`.
    """
    if not segment.numel():
        raise ProtocolError(f"The tensor {name!r} is empty.")
    reduced = [axis for axis, side in enumerate(group_shape(tuple(segment.shape))) if side == 1]
    least = greatest = segment
    for axes in filter(None, (reduced[:1], reduced[1:])):  # over the samples first, which is several times faster
        least, greatest = least.amin(axes, keepdim=True), greatest.amax(axes, keepdim=True)
    check_range(name, least, greatest)
    return least, greatest


def quantize(segment: Tensor, least: Tensor, greatest: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return codes 0..levels, as floats, and groups (2, ...): minimum and step."""
    step = _step(least, greatest, levels)
    return torch.sub(segment, least).div_(torch.where(step > 0, step, 1.0)).round_(), torch.stack([least, step])


def quantize_keeping_zeros(
    segment: Tensor, least: Tensor, greatest: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    """Return codes 0..levels+1, as floats, and groups as `quantize`, where 0 decodes to 0.

    Without it every zero of a gradient would decode to the same small value of one sign.
    """
    step = _step(least, greatest, levels)
    first = torch.where((least < 0) & (greatest >= 0) & (step > 0), (least / step).floor() * step, least)
    codes = torch.sub(segment, first).div_(torch.where(step > 0, step, 1.0)).round_().clamp_(max=levels + 1)
    return codes, torch.stack([first, step])


def dequantize(codes: Tensor, groups: Tensor) -> Tensor:
    """Return the values of int8 codes (N, ...); `groups` (2, ...): minimum and step, of shapes that broadcast."""
    least, step = groups
    return codes.to(torch.float32).add_(MIDDLE).mul_(step).add_(least)


def check_groups(name: str, groups: Tensor | None, shape: tuple[int, ...], used: str) -> Tensor:
    """Check the groups that came with the codes of a tensor of `shape`.

    Raises: ProtocolError if they are missing, of another shape or no numbers.
    """
    expected = (2, *group_shape(shape))
    if groups is None or groups.dtype != torch.float32 or tuple(groups.shape) != expected:
        raise ProtocolError(f"The tensor {name!r} arrived as {used} without its groups of shape {expected}.")
    if not groups.isfinite().all():
        raise ProtocolError(f"The groups of the tensor {name!r} are not numbers.")
    return groups


def check_range(name: str, least: Tensor, greatest: Tensor) -> None:
    """Check the least and greatest values of a tensor that is to be sent.

    Raises: DivergedError if one is NaN, infinite or beyond MAX_MAGNITUDE.
    """
    magnitude = torch.maximum(-least.min(), greatest.max()).item()  # NaN propagates
    if not magnitude <= MAX_MAGNITUDE:
        what = "NaN" if math.isnan(magnitude) else f"values up to {magnitude:g}"
        raise DivergedError(
            f"The {name} holds {what}: training has diverged. Lower --learning-rate, and check the data for "
            "outliers."
        )


def _step(least: Tensor, greatest: Tensor, levels: int) -> Tensor:
    """Return the step of every group; where its values are (nearly) equal 0: every value decodes to the minimum."""
    step = (greatest - least) / levels
    return torch.where(step < torch.finfo(torch.float32).tiny, 0.0, step)
