"""Encodes messages as frames and decodes them; no sockets.

A frame is a fixed prefix, a JSON header and the tensors' raw buffers:

    magic "PACE" | version u8 | kind u8 | 0 u16 | header bytes u32 | payload bytes u64 | sent at f64 (s) | number u32

all big-endian; tensor values are little-endian and each tensor starts at a multiple of 16 bytes of the payload.
The frames of each direction of a connection are numbered from 1, so that duplicates and gaps are detected. Every length
is checked against a limit before memory is allocated. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from trainer.errors import ProtocolError
from trainer.protocol.messages import MESSAGES, Message

MAGIC = b"PACE"
VERSION = 12
PREFIX = struct.Struct(">4sBBHIQdI")
MAX_HEADER_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
MAX_TENSORS = 4096
ALIGNMENT_BYTES = 16

_DTYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f64": torch.float64,
    "u8": torch.uint8,
    "i8": torch.int8,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "bool": torch.bool,
    "f16": torch.float16,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert sys.byteorder == "little", "tensors are sent in the byte order of memory"


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Largest header and payload accepted; smaller before an edge is authenticated."""

    header_bytes: int = MAX_HEADER_BYTES
    payload_bytes: int = MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True)
class Prefix:
    """The validated fixed prefix of a frame."""

    kind: int
    header_bytes: int
    payload_bytes: int
    sent_s: float
    number: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """A message with its tensors and the time it was sent (seconds, the sender's clock)."""

    message: Message
    sent_s: float
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    size_bytes: int = 0
    number: int = 0


class _TensorHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=256)
    dtype: str = Field(max_length=8)
    shape: list[int] = Field(max_length=8)


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    message: dict[str, object]
    tensors: list[_TensorHeader] = Field(max_length=MAX_TENSORS)


def encode(message: Message, tensors: Mapping[str, Tensor] | None = None) -> tuple[int, bytes, list[memoryview]]:
    """Return kind, header and payload buffers (contiguous tensors are not copied); see `pack_prefix`."""
    tensor_headers, buffers = [], []
    for name, tensor in (tensors or {}).items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise ProtocolError(f"The tensor {name!r} is of type {tensor.dtype}, which cannot be sent; supported are: "
                                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in _DTYPE_NAMES)}.")
        tensor_headers.append({"name": name, "dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)})
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        raw = values.reshape(-1).view(torch.uint8).numpy().data
        buffers.append(raw)
        if padding := -raw.nbytes % ALIGNMENT_BYTES:
            buffers.append(memoryview(bytes(padding)))
    header = json.dumps(
        {"message": message.model_dump(mode="json"), "tensors": tensor_headers}, separators=(",", ":")
    ).encode()
    return message.kind, header, buffers


def pack_prefix(kind: int, header: bytes, buffers: list[memoryview], sent_s: float, number: int) -> bytes:
    """Return the prefix of a frame with its time of sending and its number in the connection."""
    return PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), sum(map(len, buffers)), sent_s, number)


def parse_prefix(data: bytes | bytearray, limits: FrameLimits) -> Prefix:
    """Parse and validate the first PREFIX.size bytes of a frame.

    Raises: ProtocolError if they are not a prefix or announce more than `limits`.
    """
    magic, version, kind, zero, header_bytes, payload_bytes, sent_s, number = PREFIX.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"The peer does not use the Paceline protocol: its first bytes are {bytes(data[:4])!r}.")
    if version != VERSION:
        raise ProtocolError(f"The peer uses protocol version {version}; this is version {VERSION}.")
    if kind not in MESSAGES or zero != 0:
        raise ProtocolError(f"Unknown message kind {kind}.")
    if header_bytes > limits.header_bytes or payload_bytes > limits.payload_bytes:
        raise ProtocolError(
            f"A frame of {header_bytes} + {payload_bytes} bytes is larger than the {limits.header_bytes} + "
            f"{limits.payload_bytes} bytes allowed here."
        )
    if not math.isfinite(sent_s):
        raise ProtocolError("The sending time of a frame is not finite.")
    return Prefix(kind, header_bytes, payload_bytes, sent_s, number)


def decode(prefix: Prefix, header: bytes | bytearray, payload: bytearray) -> Frame:
    """Decode a frame; its tensors share memory with `payload`.

    Raises: ProtocolError if header and payload are not a message with its tensors.
    """
    try:
        content = _Header.model_validate_json(header)
        message = MESSAGES[prefix.kind].model_validate(content.message)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise ProtocolError(
            f"A {MESSAGES[prefix.kind].__name__} message is malformed at {location or 'its start'}: {first['msg']}."
        ) from error
    tensors = _tensors(content.tensors, payload)
    size_bytes = PREFIX.size + prefix.header_bytes + prefix.payload_bytes
    return Frame(message, prefix.sent_s, tensors, size_bytes, prefix.number)


def _tensors(headers: list[_TensorHeader], payload: bytearray) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    offset = 0
    for header in headers:
        dtype = _DTYPES.get(header.dtype)
        if dtype is None or any(not 0 <= side <= MAX_PAYLOAD_BYTES for side in header.shape):
            raise ProtocolError(f"Tensor {header.name!r} has type {header.dtype!r} and shape {header.shape}.")
        count = math.prod(header.shape)
        size = count * dtype.itemsize
        if size > len(payload) - offset:
            raise ProtocolError(f"Tensor {header.name!r} of {size} bytes goes beyond the frame's payload.")
        if count:
            flat = torch.frombuffer(payload, dtype=dtype, count=count, offset=offset)
            if dtype == torch.bool:
                flat = flat.view(torch.uint8) != 0  # any other byte than 0 or 1 is no valid boolean
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors[header.name] = flat.reshape(header.shape)
        offset += size + -size % ALIGNMENT_BYTES
    if offset != len(payload):
        raise ProtocolError(f"A frame's payload has {len(payload)} bytes, its tensors account for {offset}.")
    return tensors
