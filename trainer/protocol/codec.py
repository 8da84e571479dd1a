"""Segment <-> what travels. Sizes follow from the shape alone, so that they can be reserved in advance.

    fp32   exact
    bf16   half the bytes: 8 bits of exponent, 8 of mantissa (one implied), rounded to nearest even
    int8   a quarter of the bytes: 256 evenly spaced values from the least to the greatest of each group

The groups of int8 are the channels (dimension 1 of the segment) if each has at least GROUP_VALUES values, else the
samples, else the whole segment. So a group's two numbers, its least value and its step, cost at most 2/GROUP_VALUES
of what the values cost in fp32, but in a segment of less than GROUP_VALUES values.
Source: Jacob et al. 2018, "Quantization and training of neural networks", equation 1, with a real offset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import DivergedError, ProtocolError

Codec = Literal["fp32", "bf16", "int8"]

VALUE_BYTES: dict[Codec, int] = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes one value takes on the way, int8's groups not counted."""

GROUP_VALUES = 128
LARGEST = 1e38
"""Above this the difference of two values may not be a number any more."""

_LEVELS = 255
_MIDDLE = 128
"""Codes 0..255 travel as -128..127: PyTorch converts to signed bytes several times faster."""
_TYPES: dict[Codec, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GROUPS = ".groups"


def gradient_codec(codec: Codec) -> Codec:
    """How the gradient of a segment travels if nobody asks for anything else: never in less than bf16."""
    return "bf16" if codec == "int8" else codec


def encoded_bytes(shape: tuple[int, ...], codec: Codec) -> int:
    """The bytes of a segment of `shape` = (N, ...) as it travels, frames and their headers not counted."""
    groups = 0 if codec != "int8" else math.prod(_group_shape(shape))
    return math.prod(shape) * VALUE_BYTES[codec] + 2 * 4 * groups


def encode(name: str, segment: Tensor, codec: Codec) -> dict[str, Tensor]:
    """The tensors that travel for a segment (N, ...): `name`, and `name.groups` (2, ...) for int8.

    No copy for fp32.

    Raises: DivergedError if a value is not a number, infinite or beyond LARGEST.
    """
    segment = segment.detach()
    if codec == "int8":
        return _quantize(name, segment.to(torch.float32))
    if segment.numel():
        least, greatest = torch.aminmax(segment)
        _check_range(name, least, greatest)
    return {name: segment.to(_TYPES[codec])}


def decode(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor to compute with, in single precision; its codec shows in the types.

    Raises: ProtocolError if it is missing or not as `encode` makes it.
    """
    values = tensors.get(name)
    if values is None:
        raise ProtocolError(f"The tensor {name!r} is missing.")
    if values.dtype == torch.int8:
        return _restore(name, values, tensors.get(name + _GROUPS))
    if values.dtype not in _TYPES.values():
        raise ProtocolError(f"The tensor {name!r} came as {values.dtype}; it travels as fp32, bf16 or int8.")
    return values.to(torch.float32)


def _group_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what each group keeps, in as many dimensions as the segment."""
    values = math.prod(shape)
    for dimension in (1, 0):
        if len(shape) > dimension and shape[dimension] and values // shape[dimension] >= GROUP_VALUES:
            return tuple(side if place == dimension else 1 for place, side in enumerate(shape))
    return (1,) * len(shape)


def _quantize(name: str, segment: Tensor) -> dict[str, Tensor]:
    if not segment.numel():
        raise ProtocolError(f"The tensor {name!r} is empty.")
    group_shape = _group_shape(tuple(segment.shape))
    within = [place for place, side in enumerate(group_shape) if side == 1]
    least = greatest = segment
    for places in filter(None, (within[:1], within[1:])):  # over the samples first, which takes a fraction of the time
        least, greatest = least.amin(places, keepdim=True), greatest.amax(places, keepdim=True)
    _check_range(name, least, greatest)
    step = (greatest - least) / _LEVELS
    # Where a group's values are (all but) equal, its step is nothing and every value becomes the least.
    step = torch.where(step < torch.finfo(torch.float32).tiny, 0.0, step)
    codes = torch.sub(segment, least).div_(torch.where(step > 0, step, 1.0)).round_().sub_(_MIDDLE)
    return {name: codes.to(torch.int8), name + _GROUPS: torch.stack([least, step])}


def _restore(name: str, codes: Tensor, groups: Tensor | None) -> Tensor:
    expected = (2, *_group_shape(tuple(codes.shape)))
    if groups is None or groups.dtype != torch.float32 or tuple(groups.shape) != expected:
        raise ProtocolError(f"The tensor {name!r} came as int8 without its groups of shape {expected}.")
    if not groups.isfinite().all():
        raise ProtocolError(f"The groups of the tensor {name!r} are not numbers.")
    least, step = groups
    return codes.to(torch.float32).add_(_MIDDLE).mul_(step).add_(least)


def _check_range(name: str, least: Tensor, greatest: Tensor) -> None:
    most = torch.maximum(-least.min(), greatest.max()).item()  # NaN wins in both
    if not most <= LARGEST:
        what = "NaN" if math.isnan(most) else f"values up to {most:g}"
        raise DivergedError(
            f"The {name} holds {what}: training has diverged. Lower --learning-rate, and see whether the data "
            "holds values far outside the others."
        )

