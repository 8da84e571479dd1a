"""Codes of a quantized segment within a budget of bytes that follows from its shape: compressed by Zstandard.

Compressed sizes depend on the values, while bandwidth is reserved beforehand. So the budget is fixed, SHARE of the
fp32 size, and the number of levels follows: the largest of LEVELS whose codes fit, found by bisection. If not even the
fewest fit, as in segments of some hundred values, their codes are packed in PACKED_BITS bits each, which always fits.
The same values give the same bytes. What is left of the budget is not sent.

The first byte says which of both it is. Zstandard (RFC 8878): its entropy coders make frequent codes short, and it
finds the runs of equal codes in gradients.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.protocol import quantization

SHARE = 0.12
PACKED_BITS = 3
LEVELS = tuple(sorted({round(253 / 2 ** (rung / 4)) for rung in range(21)} | {2**PACKED_BITS - 2}))
"""From coarse to fine; the codes are one more, see `quantize_keeping_zeros`."""

_PACKED, _COMPRESSED = 0, 1
_COMPRESSION_LEVEL = 1
"""Higher ones take longer and save nothing: there is little to find but the codes' frequencies."""


def budget_bytes(shape: tuple[int, ...]) -> int:
    """Return the most bytes that the encoded tensor of `shape`, with its groups, may take."""
    values = math.prod(shape)
    return max(int(SHARE * 4 * values), 1 + _packed_bytes(values) + quantization.group_bytes(shape))


def encode(name: str, segment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bytes of a tensor (N, ...) in single precision, at most its budget, and the groups (2, ...).

    Raises: as `quantization.group_range`.
    """
    shape = tuple(segment.shape)
    least, greatest = quantization.group_range(name, segment)
    room = budget_bytes(shape) - quantization.group_bytes(shape) - 1
    import zstandard  # after the start of a run, and only with this codec

    compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
    best, low, high = None, 0, len(LEVELS)
    while low < high:
        middle = (low + high) // 2
        codes, groups = _quantize(segment, least, greatest, LEVELS[middle])
        compressed = compressor.compress(codes.tobytes())
        if len(compressed) <= room:
            best, low = (compressed, groups), middle + 1
        else:
            high = middle
    if best is None:
        codes, groups = _quantize(segment, least, greatest, LEVELS[0])
        return _join(_PACKED, _pack(codes.reshape(-1))), groups
    return _join(_COMPRESSED, best[0]), best[1]


def decode(name: str, data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the int8 codes of `shape` in the bytes that arrived. What they decompress to is bounded beforehand.

    Raises: ProtocolError if they are more than the budget, or not as `encode` returns them.
    """
    values = math.prod(shape)
    room = budget_bytes(shape) - quantization.group_bytes(shape)
    if data.dim() != 1 or not 1 <= len(data) <= room:
        raise ProtocolError(f"The tensor {name!r} arrived as {data.numel()} bytes of shape {tuple(data.shape)}; the "
                            f"codec zstd sends 1 to {room} for {shape}.")
    raw = data.numpy()
    kind, body = int(raw[0]), raw[1:]
    if kind == _PACKED and len(body) == _packed_bytes(values):
        codes = _unpack(body, values)
    elif kind == _COMPRESSED:
        codes = np.frombuffer(_decompress(name, body, values), np.uint8)
    else:
        raise ProtocolError(f"The tensor {name!r} arrived as {len(body)} bytes of kind {kind}; the codec zstd sends "
                            f"kind {_COMPRESSED}, or {_packed_bytes(values)} bytes of kind {_PACKED}.")
    return torch.from_numpy(codes ^ 128).view(torch.int8).reshape(shape)  # code - 128 in two's complement


def _quantize(segment: Tensor, least: Tensor, greatest: Tensor, levels: int) -> tuple[NDArray[np.uint8], Tensor]:
    codes, groups = quantization.quantize_keeping_zeros(segment, least, greatest, levels)
    return codes.to(torch.uint8).cpu().numpy(), groups


def _decompress(name: str, body: NDArray[np.uint8], values: int) -> bytes:
    """Return exactly that many bytes. A frame that announces another size is refused before memory is allocated."""
    import zstandard

    frame = body.tobytes()
    try:
        announced = zstandard.frame_content_size(frame)
        if announced != values:
            raise ProtocolError(f"The tensor {name!r} announces {announced} values; it has {values}.")
        codes = bytes(zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise ProtocolError(f"The tensor {name!r} cannot be decompressed: {error}.") from error
    if len(codes) != values:
        raise ProtocolError(f"The tensor {name!r} decompresses to {len(codes)} values; it has {values}.")
    return codes


def _packed_bytes(values: int) -> int:
    return -(-values * PACKED_BITS // 8)


def _pack(codes: NDArray[np.uint8]) -> bytes:
    return np.packbits(np.unpackbits(codes[:, None], axis=1)[:, -PACKED_BITS:]).tobytes()


def _unpack(data: NDArray[np.uint8], values: int) -> NDArray[np.uint8]:
    bits = np.unpackbits(data, count=values * PACKED_BITS).reshape(values, PACKED_BITS)
    return np.packbits(np.pad(bits, ((0, 0), (8 - PACKED_BITS, 0))), axis=1)


def _join(kind: int, body: bytes) -> Tensor:
    return torch.frombuffer(bytearray((kind,)) + body, dtype=torch.uint8)
