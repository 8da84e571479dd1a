"""Segments of a frozen part that the cloud keeps, so that later epochs need none: in memory, beyond a limit on disk.

They are kept as they arrived: in double or single precision, bf16, or int8 with the groups of their frame; zstd is
decompressed to int8.
"""

from __future__ import annotations

import math
import os
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

from trainer.data.sending import SentSamples
from trainer.errors import ProtocolError
from trainer.models.boundary import Boundary, TensorSpec
from trainer.models.values import Values
from trainer.protocol import codec, segments
from trainer.protocol.codec import Codec
from trainer.protocol.quantization import dequantize

_CODED_TYPES = {"bf16": torch.bfloat16, "int8": torch.int8, "zstd": torch.int8}


@dataclass
class KeepingSpace:
    """What kept segments of all edges may take: bytes in memory, then files in `directory`."""

    memory_bytes: int
    directory: Path

    def allocate(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, int]:
        """Return an uninitialized tensor and its bytes in memory: all, or 0 if it is in a file.

        The file has no name and ends with the process. Its blocks are reserved, because a full disk would end the
        process at a write.

        Raises: OSError if the disk is full.
        """
        size = math.prod(shape) * dtype.itemsize
        if size <= self.memory_bytes:
            self.memory_bytes -= size
            return torch.empty(*shape, dtype=dtype), size
        with NamedTemporaryFile(dir=self.directory, prefix="kept-segments-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype)
        return mapped.view(*shape), 0

    def free(self, size: int) -> None:
        """Take back bytes of memory."""
        self.memory_bytes += size

    @property
    def room_bytes(self) -> int:
        """Bytes that fit: into memory, or into half of what is free on the disk."""
        return max(self.memory_bytes, shutil.disk_usage(self.directory).free // 2)


@dataclass
class KeptElsewhere:
    """Which segments of an edge its worker keeps; `release`: has it drop them."""

    cut: int
    codec: Codec
    sent: SentSamples
    release: Callable[[], None]


@dataclass
class _KeptTensor:
    """One tensor of a segment: a row for each sample; if quantized, groups of the frame and the row's place in it."""

    rows: Tensor
    groups: list[Tensor] = field(default_factory=list)
    frame: Tensor | None = None
    place: Tensor | None = None


class KeptSegments:
    """The segments of one edge at one cut in one codec; rows are samples.

    Raises: OSError if there is no space.
    """

    def __init__(self, cut: int, boundary: Boundary, used: Codec, samples: int, space: KeepingSpace) -> None:
        self.cut = cut
        self.codec = used
        self.sent = SentSamples(samples)
        self._boundary = boundary
        self._samples = samples
        self._space = space
        self._memory_bytes = 0
        self._tensors = {name: self._new_tensor(spec)
                         for name, spec in zip(self._names(), boundary.tensors, strict=True)}
        self._free = weakref.finalize(self, space.free, self._memory_bytes)
        self._targets: Tensor | None = None

    def add(self, rows: Tensor, tensors: Mapping[str, Tensor], targets: Tensor | None) -> None:
        """Keep the tensors of a frame, which were checked, as the segments of these samples, and their targets."""
        for (name, kept), spec in zip(self._tensors.items(), self._boundary.tensors, strict=True):
            if kept.frame is None or kept.place is None:
                kept.rows[rows] = tensors[name]
            else:
                codes, groups = codec.codes_and_groups(name, tensors, spec.shape(len(rows)))
                kept.rows[rows] = codes
                kept.frame[rows] = len(kept.groups)
                kept.place[rows] = torch.arange(len(rows))
                kept.groups.append(groups.clone())
        if targets is not None:
            if self._targets is None:
                self._targets = torch.empty(self._samples, *targets.shape[1:], dtype=targets.dtype)
            self._targets[rows] = targets

    def values(self, rows: Tensor) -> Values:
        """Return the decoded segment of these samples."""
        return self._boundary.join(
            [self._decoded(name, rows, spec.dtype) for name, spec in zip(self._names(), self._boundary.tensors,
                                                                         strict=True)], len(rows))

    def targets(self, rows: Tensor) -> Tensor:
        """Return the targets of these samples.

        Raises: ProtocolError if there are none.
        """
        if self._targets is None:
            raise ProtocolError("no targets were sent with its segments.")
        return self._targets[rows]

    def _names(self) -> list[str]:
        return [segments.tensor_name("segment", number) for number in range(len(self._boundary.tensors))]

    def release(self) -> None:
        """Return the memory to the space that all edges share; an edge that is lost does so, too."""
        self._tensors.clear()
        self._free()

    def _new_tensor(self, spec: TensorSpec) -> _KeptTensor:
        rows, memory_bytes = self._space.allocate((self._samples, *spec.shape(1)[1:]), _kept_type(spec, self.codec))
        self._memory_bytes += memory_bytes
        kept = _KeptTensor(rows)
        if self.codec in codec.QUANTIZED and spec.coded and spec.dtype.is_floating_point:
            kept.frame, kept.place = (torch.zeros(self._samples, dtype=torch.int64) for _ in range(2))
        return kept

    def _decoded(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
        kept = self._tensors[name]
        values = kept.rows[rows]
        if kept.frame is None or kept.place is None:
            return values.to(dtype)
        tables = [kept.groups[frame] for frame in kept.frame[rows].tolist()]
        own = [table if table.shape[1] == 1 else table[:, place : place + 1]
               for table, place in zip(tables, kept.place[rows].tolist(), strict=True)]
        # A frame of few samples has groups of another shape.
        groups = torch.cat(torch.broadcast_tensors(*own), dim=1)  # type: ignore[no-untyped-call]
        return dequantize(values, groups).to(dtype)


def row_bytes(boundary: Boundary, used: Codec) -> int:
    """Return the bytes that a kept sample takes, without groups and targets."""
    return sum(math.prod(spec.shape(1)) * _kept_type(spec, used).itemsize for spec in boundary.tensors)


def _kept_type(spec: TensorSpec, used: Codec) -> torch.dtype:
    """Return the type in which a tensor arrives and is kept."""
    return _CODED_TYPES.get(used, spec.dtype) if spec.coded and spec.dtype.is_floating_point else spec.dtype
