"""Codecs for segments and gradients. Encoded sizes follow from the shape alone, so they can be reserved in advance.

    fp32   exact: tensors of another type than single precision keep it
    bf16   half the bytes: 8 bits of exponent, 8 of mantissa (one implied), rounded to nearest even
    int8   a quarter of the bytes: 256 evenly spaced values between the minimum and maximum of each group

The groups of int8 are the channels (dimension 1 of the segment) if each has at least GROUP_VALUES values, else the
samples, else the whole segment. So a group's minimum and step cost at most 2/GROUP_VALUES of the fp32 size, except in
segments of less than GROUP_VALUES values.
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
"""Encoded bytes per value, without the groups of int8."""

GROUP_VALUES = 128
MAX_MAGNITUDE = 1e38
"""Above this the difference of two values may overflow fp32."""

MAX_DECODED = 1.01 * MAX_MAGNITUDE
"""Rounding by a codec may exceed the limit by this much."""

_LEVELS = 255
_MIDDLE = 128
"""Codes 0..255 are sent as -128..127: PyTorch converts to signed bytes several times faster."""
GROUPS = ".groups"


def default_gradient_codec(codec: Codec) -> Codec:
    """Return the default codec of gradients for segments in `codec`: at least bf16."""
    return "bf16" if codec == "int8" else codec


def encoded_bytes(shape: tuple[int, ...], codec: Codec, dtype: torch.dtype = torch.float32) -> int:
    """Return the encoded bytes of a tensor of `shape` = (N, ...), without frames and headers."""
    groups = 0 if codec != "int8" else math.prod(_group_shape(shape))
    return math.prod(shape) * (dtype.itemsize if codec == "fp32" else VALUE_BYTES[codec]) + 2 * 4 * groups


def encode(name: str, segment: Tensor, codec: Codec) -> dict[str, Tensor]:
    """Encode a segment (N, ...) as tensors: `name`, and `name.groups` (2, ...) for int8. No copy for fp32.

    Raises: DivergedError if a value is NaN, infinite or beyond MAX_MAGNITUDE.
    """
    segment = segment.detach()
    if codec == "int8":
        return _quantize(name, segment.to(torch.float32))
    if segment.numel():
        least, greatest = torch.aminmax(segment)
        _check_range(name, least, greatest)
    return {name: segment if codec == "fp32" else segment.to(torch.bfloat16)}


def decode(
    name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, used: Codec | None = None
) -> Tensor:
    """Decode a tensor to its own type; the codec must be `used`, or follows from the type that arrived.

    Raises: ProtocolError if it is missing or not as `encode` returns it.
    """
    values = tensors.get(name)
    if values is None:
        raise ProtocolError(f"The tensor {name!r} is missing.")
    planned = {None: values.dtype, "fp32": dtype, "bf16": torch.bfloat16, "int8": torch.int8}[used]
    if values.dtype != planned:
        raise ProtocolError(f"The tensor {name!r} arrived as {values.dtype}; with the codec {used} it is {planned}.")
    if values.dtype == torch.int8:
        values = _dequantize(name, values, tensors.get(name + GROUPS))
    elif values.dtype not in (dtype, torch.bfloat16):
        raise ProtocolError(f"The tensor {name!r} arrived as {values.dtype}; it must be {dtype}, bf16 or int8.")
    if values.numel():
        least, greatest = torch.aminmax(values)
        magnitude = torch.maximum(-least, greatest).item()  # NaN propagates
        if not magnitude <= MAX_DECODED:
            what = "NaN" if math.isnan(magnitude) else f"values up to {magnitude:g}"
            raise ProtocolError(f"The tensor {name!r} holds {what}; values lie within {MAX_MAGNITUDE:g}.")
    return values.to(dtype)


def encoded_names(name: str, used: Codec) -> list[str]:
    """Return the names of the tensors that `encode` returns."""
    return [name, name + GROUPS] if used == "int8" else [name]


def _group_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the per-group values, with as many dimensions as the segment."""
    values = math.prod(shape)
    for dimension in (1, 0):
        if len(shape) > dimension and shape[dimension] and values // shape[dimension] >= GROUP_VALUES:
            return tuple(side if axis == dimension else 1 for axis, side in enumerate(shape))
    return (1,) * len(shape)


def _quantize(name: str, segment: Tensor) -> dict[str, Tensor]:
    if not segment.numel():
        raise ProtocolError(f"The tensor {name!r} is empty.")
    group_shape = _group_shape(tuple(segment.shape))
    reduced = [axis for axis, side in enumerate(group_shape) if side == 1]
    least = greatest = segment
    for axes in filter(None, (reduced[:1], reduced[1:])):  # over the samples first, which is several times faster
        least, greatest = least.amin(axes, keepdim=True), greatest.amax(axes, keepdim=True)
    _check_range(name, least, greatest)
    step = (greatest - least) / _LEVELS
    # Where the values of a group are (nearly) equal, the step is 0 and every value decodes to the minimum.
    step = torch.where(step < torch.finfo(torch.float32).tiny, 0.0, step)
    codes = torch.sub(segment, least).div_(torch.where(step > 0, step, 1.0)).round_().sub_(_MIDDLE)
    return {name: codes.to(torch.int8), name + GROUPS: torch.stack([least, step])}


def _dequantize(name: str, codes: Tensor, groups: Tensor | None) -> Tensor:
    expected = (2, *_group_shape(tuple(codes.shape)))
    if groups is None or groups.dtype != torch.float32 or tuple(groups.shape) != expected:
        raise ProtocolError(f"The tensor {name!r} arrived as int8 without its groups of shape {expected}.")
    if not groups.isfinite().all():
        raise ProtocolError(f"The groups of the tensor {name!r} are not numbers.")
    return dequantize(codes, groups)


def dequantize(codes: Tensor, groups: Tensor) -> Tensor:
    """Return the values of int8 codes (N, ...); `groups` (2, ...): minimum and step, of shapes that broadcast."""
    least, step = groups
    return codes.to(torch.float32).add_(_MIDDLE).mul_(step).add_(least)


def _check_range(name: str, least: Tensor, greatest: Tensor) -> None:
    magnitude = torch.maximum(-least.min(), greatest.max()).item()  # NaN propagates
    if not magnitude <= MAX_MAGNITUDE:
        what = "NaN" if math.isnan(magnitude) else f"values up to {magnitude:g}"
        raise DivergedError(
            f"The {name} holds {what}: training has diverged. Lower --learning-rate, and check the data for "
            "outliers."
        )

