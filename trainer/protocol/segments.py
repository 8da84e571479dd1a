"""Segments and gradients as named tensors of a frame: a cut may be crossed by several tensors.

The first tensor has the name of the whole (`segment`), the others a number behind it (`segment.1`). A codec applies to
tensors that layers with parameters made; masks, indices and other constants travel as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.errors import ModelFailedError, ProtocolError
from trainer.models.boundary import Boundary, TensorSpec
from trainer.models.values import Values, tensors_of
from trainer.protocol import codec
from trainer.protocol.codec import Codec

CLASS_TYPES = {1: torch.uint8, 4: torch.int32}
"""In which classes are sent, by `Objective.class_bytes`."""


def encode_labels(labels: Tensor, class_bytes: int) -> Tensor:
    """Return labels as they are sent: classes in that many bytes, values as they are."""
    return labels if labels.dtype.is_floating_point else labels.to(CLASS_TYPES[class_bytes])


def encode_segment(name: str, values: Values, boundary: Boundary, samples: int, used: Codec) -> dict[str, Tensor]:
    """Encode the values at a boundary, made of that many samples.

    Raises: DivergedError if a trained tensor holds values that are not finite, ModelFailedError if the shapes depend
        otherwise on the samples than when the model was checked.
    """
    try:
        boundary.join(tensors_of(values), samples)
    except ProtocolError as error:
        raise ModelFailedError(f"What the model makes depends on the values of its samples. {error}") from error
    encoded: dict[str, Tensor] = {}
    for number, (tensor, spec) in enumerate(zip(tensors_of(values), boundary.tensors, strict=True)):
        key = tensor_name(name, number)
        encoded |= codec.encode(key, tensor, used) if _is_coded(spec) else {key: tensor.detach()}
    return encoded


def decode_segment(
    name: str, tensors: Mapping[str, Tensor], boundary: Boundary, samples: int, used: Codec | None = None
) -> Values:
    """Decode the values at a boundary for that many samples; `used`: the codec that the plan requires.

    Raises: ProtocolError if tensors are missing, have another shape or type, or hold no finite numbers.
    """
    return boundary.join([_decode(tensor_name(name, number), tensors, spec, samples, used)
                          for number, spec in enumerate(boundary.tensors)], samples)


def segment_names(name: str, boundary: Boundary, used: Codec) -> list[str]:
    """Return the names of the tensors of an encoded segment."""
    return [key for number, spec in enumerate(boundary.tensors)
            for key in _names_of(tensor_name(name, number), spec, used)]


def gradient_names(name: str, boundary: Boundary, used: Codec) -> list[str]:
    """Return the names of the tensors of encoded gradients."""
    return [key for number, spec in enumerate(boundary.differentiable) if spec.trained
            for key in _names_of(tensor_name(name, number), spec, used)]


def _names_of(key: str, spec: TensorSpec, used: Codec) -> list[str]:
    return codec.encoded_names(key, used) if _is_coded(spec) else [key]


def encode_gradients(
    name: str, gradients: Sequence[Tensor | None], boundary: Boundary, used: Codec
) -> dict[str, Tensor]:
    """Encode the gradients of those differentiable tensors of a boundary that are trained."""
    encoded: dict[str, Tensor] = {}
    for number, (gradient, spec) in enumerate(zip(gradients, boundary.differentiable, strict=True)):
        if spec.trained and gradient is not None:
            key = tensor_name(name, number)
            encoded |= codec.encode(key, gradient, used) if _is_coded(spec) else {key: gradient.detach()}
    return encoded


def decode_gradients(
    name: str, tensors: Mapping[str, Tensor], boundary: Boundary, samples: int, used: Codec | None = None
) -> list[Tensor | None]:
    """Decode the gradients of a boundary's differentiable tensors for that many samples; None if not trained.

    Raises: ProtocolError if one is missing, or holds no finite numbers; `used` as in `decode_segment`.
    """
    return [_decode(tensor_name(name, number), tensors, spec, samples, used) if spec.trained else None
            for number, spec in enumerate(boundary.differentiable)]


def segment_bytes(boundary: Boundary, samples: int, used: Codec) -> int:
    """Return the most encoded bytes of the segment of that many samples, without frames and headers."""
    return sum(_bytes(spec, samples, used) for spec in boundary.tensors)


def gradient_bytes(boundary: Boundary, samples: int, used: Codec) -> int:
    """Return the most encoded bytes of the gradients of that segment."""
    return sum(_bytes(spec, samples, used) for spec in boundary.trained)


def _bytes(spec: TensorSpec, samples: int, used: Codec) -> int:
    shape = spec.shape(samples)
    if _is_coded(spec):
        return codec.encoded_bytes(shape, used, spec.dtype)
    return math.prod(shape) * spec.dtype.itemsize


def _is_coded(spec: TensorSpec) -> bool:
    return spec.coded and spec.dtype.is_floating_point


def tensor_name(name: str, number: int) -> str:
    """Return the name of a tensor of a segment."""
    return f"{name}.{number}" if number else name


def _decode(key: str, tensors: Mapping[str, Tensor], spec: TensorSpec, samples: int, used: Codec | None) -> Tensor:
    if _is_coded(spec):
        return codec.decode(key, tensors, spec.shape(samples), spec.dtype, used)
    if key not in tensors:
        raise ProtocolError(f"The tensor {key!r} is missing.")
    return tensors[key]
