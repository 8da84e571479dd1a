"""Segment <-> what travels. `fp32` is exact; `bf16` halves the bytes and keeps 8 bits of the mantissa."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Codec = Literal["fp32", "bf16"]

VALUE_BYTES: dict[Codec, int] = {"fp32": 4, "bf16": 2}
"""Bytes one value takes on the way."""

_TYPES: dict[Codec, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def encode(segment: Tensor, codec: Codec) -> Tensor:
    """The tensor as it travels; no copy for fp32."""
    return segment.to(_TYPES[codec])


def decode(tensor: Tensor) -> Tensor:
    """The tensor to compute with."""
    return tensor.to(torch.float32)
