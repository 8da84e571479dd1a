"""Messages <-> frames; no sockets inside.

A frame is a fixed prefix, a JSON header and the tensors' raw buffers:

    magic "PACE" | version u8 | kind u8 | 0 u16 | header bytes u32 | payload bytes u64 | sent at f64 (s) | number u32

all big-endian; tensor values are little-endian and each tensor starts at a multiple of 16 bytes of the payload.
The frames of each direction of a connection are numbered from 1: one that comes again is not done again, and none is
missed unnoticed. Every length is checked against a bound before memory is taken for it. Nothing is ever unpickled.
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
VERSION = 5
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
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert sys.byteorder == "little", "tensors travel as they lie in memory"


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """The largest header and payload accepted; strangers get less than edges that are known."""

    header_bytes: int = MAX_HEADER_BYTES
    payload_bytes: int = MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True)
class Prefix:
    """The fixed first bytes of a frame, checked."""

    kind: int
    header_bytes: int
    payload_bytes: int
    sent_s: float
    number: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """A message with its tensors, and when it was sent (seconds, the sender's clock)."""

    message: Message
    sent_s: float
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    size_bytes: int = 0
    number: int = 0


class _TensorNote(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=256)
    dtype: str = Field(max_length=8)
    shape: list[int] = Field(max_length=8)


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    message: dict[str, object]
    tensors: list[_TensorNote] = Field(max_length=MAX_TENSORS)


def encode(message: Message, tensors: Mapping[str, Tensor] | None = None) -> tuple[int, bytes, list[memoryview]]:
    """The kind, the header and the payload's buffers (no copy of contiguous tensors); see `prefix`."""
    notes, buffers = [], []
    for name, tensor in (tensors or {}).items():
        notes.append({"name": name, "dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)})
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        buffers.append(raw)
        if padding := -raw.nbytes % ALIGNMENT_BYTES:
            buffers.append(memoryview(bytes(padding)))
    header = json.dumps(
        {"message": message.model_dump(mode="json"), "tensors": notes}, separators=(",", ":")
    ).encode()
    return message.kind, header, buffers


def prefix(kind: int, header: bytes, buffers: list[memoryview], sent_s: float, number: int) -> bytes:
    """The first bytes of the frame, stamped with the instant of sending and its place in the connection."""
    return PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), sum(map(len, buffers)), sent_s, number)


def parse_prefix(data: bytes | bytearray, limits: FrameLimits) -> Prefix:
    """Check a frame's first PREFIX.size bytes.

    Raises: ProtocolError if they are not ours or promise more than `limits`.
    """
    magic, version, kind, zero, header_bytes, payload_bytes, sent_s, number = PREFIX.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"The other side does not speak Paceline: its first bytes are {bytes(data[:4])!r}.")
    if version != VERSION:
        raise ProtocolError(f"The other side speaks version {version} of the protocol; this is version {VERSION}.")
    if kind not in MESSAGES or zero != 0:
        raise ProtocolError(f"There is no message of kind {kind}.")
    if header_bytes > limits.header_bytes or payload_bytes > limits.payload_bytes:
        raise ProtocolError(
            f"A frame of {header_bytes} + {payload_bytes} bytes is larger than the {limits.header_bytes} + "
            f"{limits.payload_bytes} bytes allowed here."
        )
    if not math.isfinite(sent_s):
        raise ProtocolError("A frame says it was sent at no time at all.")
    return Prefix(kind, header_bytes, payload_bytes, sent_s, number)


def decode(start: Prefix, header: bytes | bytearray, payload: bytearray) -> Frame:
    """The frame; its tensors share memory with `payload`.

    Raises: ProtocolError if header and payload are not a message with its tensors.
    """
    try:
        content = _Header.model_validate_json(header)
        message = MESSAGES[start.kind].model_validate(content.message)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ProtocolError(
            f"A {MESSAGES[start.kind].__name__} message is malformed at {place or 'its start'}: {first['msg']}."
        ) from error
    tensors = _tensors(content.tensors, payload)
    size_bytes = PREFIX.size + start.header_bytes + start.payload_bytes
    return Frame(message, start.sent_s, tensors, size_bytes, start.number)


def _tensors(notes: list[_TensorNote], payload: bytearray) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    place = 0
    for note in notes:
        dtype = _DTYPES.get(note.dtype)
        if dtype is None or any(not 0 <= side <= MAX_PAYLOAD_BYTES for side in note.shape):
            raise ProtocolError(f"Tensor {note.name!r} has type {note.dtype!r} and shape {note.shape}.")
        count = math.prod(note.shape)
        size = count * dtype.itemsize
        if size > len(payload) - place:
            raise ProtocolError(f"Tensor {note.name!r} of {size} bytes goes beyond the frame's payload.")
        if count:
            flat = torch.frombuffer(payload, dtype=dtype, count=count, offset=place)
        else:
            flat = torch.empty(0, dtype=dtype)
        tensors[note.name] = flat.reshape(note.shape)
        place += size + -size % ALIGNMENT_BYTES
    if place != len(payload):
        raise ProtocolError(f"A frame's payload has {len(payload)} bytes, its tensors account for {place}.")
    return tensors
