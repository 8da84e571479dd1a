"""Codecs for segments and gradients. The most bytes follow from the shape alone, so they can be reserved in advance.

    fp32   exact: tensors of another type than single precision keep it
    bf16   half the bytes: 8 bits of exponent, 8 of mantissa (one implied), rounded to nearest even
    int8   a quarter of the bytes: 256 evenly spaced values between the minimum and maximum of each group
    zstd   at most 0.12 of the bytes: as many evenly spaced values as fit into that when they are compressed
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.protocol import entropy_coding, quantization
from trainer.protocol.quantization import MAX_MAGNITUDE

Codec = Literal["fp32", "bf16", "int8", "zstd"]

CODECS: tuple[Codec, ...] = ("fp32", "bf16", "int8", "zstd")
"""From exact to most lossy."""

QUANTIZED: tuple[Codec, ...] = ("int8", "zstd")
"""They decode to int8 codes and groups."""

MAX_DECODED = 1.01 * MAX_MAGNITUDE
"""Rounding by a codec may exceed the limit by this much."""

GROUPS = ".groups"
_TYPES: dict[Codec, torch.dtype] = {"bf16": torch.bfloat16, "int8": torch.int8, "zstd": torch.uint8}


def default_gradient_codec(codec: Codec) -> Codec:
    """Return the default codec of gradients for segments in `codec`: not int8, which keeps no zeros."""
    return "bf16" if codec == "int8" else codec


def encoded_bytes(shape: tuple[int, ...], codec: Codec, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of an encoded tensor of `shape` = (N, ...), of zstd the most; without frames and headers."""
    values = math.prod(shape)
    match codec:
        case "fp32":
            return values * dtype.itemsize
        case "bf16":
            return values * 2
        case "int8":
            return values + quantization.group_bytes(shape)
        case "zstd":
            return entropy_coding.budget_bytes(shape)


def encode(name: str, segment: Tensor, codec: Codec) -> dict[str, Tensor]:
    """Encode a segment (N, ...) as tensors: `name`, and `name.groups` (2, ...) if quantized. No copy for fp32.

    Raises: DivergedError if a value is NaN, infinite or beyond MAX_MAGNITUDE.
    """
    segment = segment.detach()
    if codec == "int8":
        segment = segment.to(torch.float32)
        codes, groups = quantization.quantize(
            segment, *quantization.group_range(name, segment), quantization.MAX_CODE)
        return {name: codes.sub_(quantization.MIDDLE).to(torch.int8), name + GROUPS: groups}
    if codec == "zstd":
        return dict(zip((name, name + GROUPS), entropy_coding.encode(name, segment.to(torch.float32)), strict=True))
    if segment.numel():
        quantization.check_range(name, *torch.aminmax(segment))
    return {name: segment if codec == "fp32" else segment.to(torch.bfloat16)}


def decode(
    name: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype = torch.float32,
    used: Codec | None = None,
) -> Tensor:
    """Decode a tensor of `shape` to its own type; the codec must be `used`, or follows from the type that arrived.

    Raises: ProtocolError if it is missing or not as `encode` returns it.
    """
    values = tensors.get(name)
    if values is None:
        raise ProtocolError(f"The tensor {name!r} is missing.")
    planned = values.dtype if used is None else _TYPES.get(used, dtype)
    if values.dtype != planned:
        raise ProtocolError(f"The tensor {name!r} arrived as {values.dtype}; with the codec {used} it is {planned}.")
    if values.dtype in (torch.int8, torch.uint8):
        values = quantization.dequantize(*codes_and_groups(name, tensors, shape))
    elif values.dtype not in (dtype, torch.bfloat16):
        raise ProtocolError(f"The tensor {name!r} arrived as {values.dtype}; it must be {dtype}, bf16, int8 or bytes.")
    if values.numel():
        least, greatest = torch.aminmax(values)
        magnitude = torch.maximum(-least, greatest).item()  # NaN propagates
        if not magnitude <= MAX_DECODED:
            what = "NaN" if math.isnan(magnitude) else f"values up to {magnitude:g}"
            raise ProtocolError(f"The tensor {name!r} holds {what}; values lie within {MAX_MAGNITUDE:g}.")
    return values.to(dtype)


def codes_and_groups(name: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the int8 codes of a quantized tensor of `shape`, and its groups (2, ...).

    Raises: ProtocolError as `decode`.
    """
    values = tensors[name]
    is_coded = values.dtype == torch.uint8
    if not is_coded and tuple(values.shape) != shape:
        raise ProtocolError(f"The tensor {name!r} arrived in the shape {tuple(values.shape)}; it has {shape}.")
    groups = quantization.check_groups(name, tensors.get(name + GROUPS), shape, "zstd" if is_coded else "int8")
    return entropy_coding.decode(name, values, shape) if is_coded else values, groups


def encoded_names(name: str, used: Codec) -> list[str]:
    """Return the names of the tensors that `encode` returns."""
    return [name, name + GROUPS] if used in QUANTIZED else [name]
