"""The boundary between two layers: which tensors a segment consists of, with shapes that follow from the samples.

A cut may be crossed by several tensors: skip connections, masks, tuples of states. Each dimension is a constant plus a
multiple of the number of samples; found by running the layers with two numbers of samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree

from trainer.errors import ModelFailedError, ProtocolError
from trainer.models.values import Values, is_differentiable, tensors_of
from trainer.plugins import describe_error


@dataclass(frozen=True, slots=True)
class Affine:
    """A whole number that follows from the number of samples: `constant + per_sample x samples`."""

    constant: int
    per_sample: int

    def at(self, samples: int) -> int:
        """Return the number for that many samples."""
        return self.constant + self.per_sample * samples


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a segment. `trained`: a gradient comes back for it, because trained parameters made it.

    `coded`: the codec applies, because any parameters made it; others, such as masks, are constants of the micro-batch.
    """

    sides: tuple[Affine, ...]
    dtype: torch.dtype
    trained: bool
    coded: bool = True

    def shape(self, samples: int) -> tuple[int, ...]:
        """Return the shape for that many samples."""
        return tuple(side.at(samples) for side in self.sides)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The values between two layers; `leaves`: a specification of every tensor, and all else as it is."""

    structure: Any
    leaves: tuple[Any, ...]

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors that a segment consists of."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorSpec))

    @property
    def is_one_tensor(self) -> bool:
        """Whether a segment is a tensor that is in no tuple or mapping."""
        return bool(self.structure == _pytree.tree_structure(0)) and isinstance(self.leaves[0], TensorSpec)

    @property
    def trained(self) -> tuple[TensorSpec, ...]:
        """The tensors that have a gradient."""
        return tuple(spec for spec in self.tensors if spec.trained)

    @property
    def needs_gradient(self) -> tuple[bool, ...]:
        """Whether a gradient comes back, for every differentiable tensor."""
        return tuple(spec.trained for spec in self.differentiable)

    @property
    def differentiable(self) -> tuple[TensorSpec, ...]:
        """The tensors that can have a gradient."""
        return tuple(spec for spec in self.tensors if spec.dtype.is_floating_point or spec.dtype.is_complex)

    def samples_in(self, values: Values) -> int:
        """Return the number of samples in values at this boundary.

        Raises: ProtocolError if they have other shapes or types than for any number of samples.
        """
        tensors = tensors_of(values)
        for tensor, spec in zip(tensors, self.tensors, strict=False):
            for size, side in zip(tensor.shape, spec.sides, strict=False):
                if side.per_sample:
                    samples = (size - side.constant) // side.per_sample
                    self.join(tensors, samples)
                    return samples
        raise ProtocolError("The segment has no dimension that counts the samples.")

    def value_count(self, samples: int) -> int:
        """Return the number of values in the segment of that many samples."""
        return sum(math.prod(spec.shape(samples)) for spec in self.tensors)

    def join(self, tensors: Sequence[Tensor], samples: int) -> Values:
        """Rebuild the values of a segment of `samples` samples from its tensors.

        Raises: ProtocolError if they have other shapes or types.
        """
        specs = self.tensors
        if len(tensors) != len(specs):
            raise ProtocolError(f"The segment has {len(tensors)} tensors; it must have {len(specs)}.")
        for number, (tensor, spec) in enumerate(zip(tensors, specs, strict=True), start=1):
            if tuple(tensor.shape) != spec.shape(samples) or tensor.dtype != spec.dtype:
                raise ProtocolError(
                    f"Tensor {number} of the segment is {tensor.dtype} {tuple(tensor.shape)}; it must be {spec.dtype} "
                    f"{spec.shape(samples)} for {samples} samples."
                )
        rest = iter(tensors)
        return _pytree.tree_unflatten([
            next(rest) if isinstance(leaf, TensorSpec) else leaf.at(samples) if isinstance(leaf, Affine) else leaf
            for leaf in self.leaves
        ], self.structure)

    @staticmethod
    def of_shape(*sides: int, dtype: torch.dtype = torch.float32) -> Boundary:
        """Return the boundary of one tensor (N, *sides)."""
        spec = TensorSpec((Affine(0, 1), *(Affine(side, 0) for side in sides)), dtype, trained=True)
        return Boundary(_pytree.tree_structure(0), (spec,))


def has_gradients(boundaries: Sequence[Boundary], cut: int, tail: int | None) -> bool:
    """Return whether the gradient of a segment is sent to the edge: not if its layers [0, cut) are all frozen.

    `tail`: first layer of the edges' tail, whose input must have a gradient, too.
    """
    return bool(boundaries[cut].trained) and (tail is None or bool(boundaries[tail].trained))


class BoundaryError(Exception):
    """The values after layer `layer` (from 1; 0 is the input) cannot be a segment; the text says why."""

    def __init__(self, layer: int, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


class LayerError(Exception):
    """Layer `layer` (from 1) raised the error that is this one's cause; `taken` describes its input."""

    def __init__(self, layer: int, taken: str) -> None:
        super().__init__(taken)
        self.layer = layer
        self.taken = taken


PROBES = (2, 3)
"""Numbers of samples that the layers are run with; not 1, which batch normalization does not take in training."""

THIRD_PROBE = 11
"""A number of samples that shows which shapes follow from the values of the samples."""


def find_boundaries(layers: Sequence[nn.Module], batch: Callable[[int], Tensor]) -> list[Boundary]:
    """Return the boundaries of the cuts 0..L in training mode; does not change the layers.

    `batch` returns the input of that many samples.

    Raises: BoundaryError, LayerError.
    """
    has_frozen = any(not parameter.requires_grad for layer in layers for parameter in layer.parameters())
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        first, second = ([Probe.of(values) for values in _run(layers, batch(samples))] for samples in PROBES)
        if has_frozen:
            as_trained = [Probe.of(values) for values in _run(layers, batch(PROBES[0]), all_trained=True)]
            first = [probe.coded_as(other) for probe, other in zip(first, as_trained, strict=True)]
    return [to_boundary(number, *pair) for number, pair in enumerate(zip(first, second, strict=True))]


def _run(layers: Sequence[nn.Module], values: Values, all_trained: bool = False) -> Iterator[Values]:
    """Yield the values at every cut; a layer's copy lives only while it runs."""
    yield values
    for number, layer in enumerate(layers, start=1):
        taken = describe(values)
        own = copy.deepcopy(layer).train()
        for parameter in own.parameters() if all_trained else ():
            parameter.requires_grad_(is_differentiable(parameter))
        try:
            values = own(values)
        except Exception as error:
            raise LayerError(number, taken) from error
        yield values


def describe(values: Values) -> str:
    """Return the shapes of a sample's tensors, such as "(3, 32, 32)" or "(8,) and int64 (4,)"."""
    texts = []
    for tensor in tensors_of(values):
        kind = "" if tensor.dtype == torch.float32 else str(tensor.dtype).removeprefix("torch.") + " "
        texts.append(f"{kind}{tuple(tensor.shape[1:])}")
    return " and ".join(texts) or f"no tensor but {type(values).__name__}"


def leaf_modules(layer: nn.Module) -> list[nn.Module]:
    """Return the modules of a layer that have no children."""
    return [module for module in layer.modules() if not list(module.children()) and type(module) is not nn.Module]


def layer_title(layers: Sequence[nn.Module], number: int) -> str:
    """Return the name of layer `number`, from 1, for an error: "layer 3 (Linear)"."""
    if number == 0:
        return "the input"
    layer = layers[number - 1]
    parts = [type(module).__name__ for module in leaf_modules(layer)]
    kind = type(layer).__name__
    return f"layer {number} ({', '.join(parts[:3]) if kind in ('Sequential', 'TracedLayer') and parts else kind})"


def call_layer(layers: Sequence[nn.Module], number: int, values: Values) -> Values:
    """Run layer `number`, from 0.

    Raises: ModelFailedError that names the layer, and the place in the user's file.
    """
    try:
        return layers[number](values)
    except Exception as error:
        raise ModelFailedError(
            f"{layer_title(layers, number + 1)} of the model fails on samples of shape {describe(values)}: "
            f"{describe_error(error)}."
        ) from error


@dataclass(frozen=True, slots=True)
class _ProbedTensor:
    shape: tuple[int, ...]
    dtype: torch.dtype
    trained: bool
    coded: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """The leaves of the values at a cut: shape, type and whether a gradient is needed of a tensor; others as they are.

    Recorded before the next layer runs, which may modify the values in place.
    """

    structure: Any
    leaves: tuple[Any, ...]

    @staticmethod
    def of(values: Values) -> Probe:
        """Record values."""
        leaves, structure = _pytree.tree_flatten(values, is_leaf=lambda part: isinstance(part, PackedSequence))
        alone = isinstance(values, Tensor)
        return Probe(structure, tuple(
            _ProbedTensor(tuple(leaf.shape), leaf.dtype, leaf.requires_grad,
                          is_differentiable(leaf) and (alone or leaf.requires_grad))
            if isinstance(leaf, Tensor) else leaf for leaf in leaves
        ))

    def coded_as(self, other: Probe) -> Probe:
        """Return this probe with those tensors coded that are in another probe of the same values."""
        return Probe(self.structure, tuple(
            replace(own, coded=own.coded or twin.coded)
            if isinstance(own, _ProbedTensor) and isinstance(twin, _ProbedTensor) else own
            for own, twin in zip(self.leaves, other.leaves, strict=True)
        ))

    def fits(self, boundary: Boundary, samples: int) -> bool:
        """Return whether this probe of that many samples has the shapes of a boundary."""
        shapes = [leaf.shape for leaf in self.leaves if isinstance(leaf, _ProbedTensor)]
        return shapes == [spec.shape(samples) for spec in boundary.tensors]

    @staticmethod
    def joined(probes: Sequence[Probe]) -> Probe:
        """Return the probe of one value, or of a tuple of several."""
        if len(probes) == 1:
            return probes[0]
        structure = _pytree.tree_structure(tuple(_pytree.tree_unflatten([0] * len(probe.leaves), probe.structure)
                                                 for probe in probes))
        return Probe(structure, tuple(leaf for probe in probes for leaf in probe.leaves))


def to_boundary(layer: int, few: Probe, more: Probe) -> Boundary:
    """Return the boundary that two probes of the same values, of PROBES samples, show.

    Raises: BoundaryError.
    """
    if few.structure != more.structure or len(few.leaves) != len(more.leaves):
        raise BoundaryError(layer, "makes values whose structure depends on the number of samples")
    leaves = tuple(_leaf(layer, *pair) for pair in zip(few.leaves, more.leaves, strict=True))
    boundary = Boundary(few.structure, leaves)
    if not any(side.per_sample for spec in boundary.tensors for side in spec.sides):
        raise BoundaryError(layer, f"makes {_text(few.leaves)} of {PROBES[0]} samples; a layer must make at least one "
                                   "tensor with a dimension that counts the samples")
    return boundary


_CONSTANTS = (bool, int, float, str, torch.Size, torch.dtype, torch.device, type(None))


def _leaf(layer: int, few: Any, more: Any) -> Any:
    """Return what is known of one leaf from two probes."""
    if isinstance(few, _ProbedTensor) and isinstance(more, _ProbedTensor):
        sides = [_affine(*pair) for pair in zip(few.shape, more.shape, strict=False)]
        if (few.dtype, len(few.shape)) == (more.dtype, len(more.shape)) and None not in sides:
            return TensorSpec(tuple(side for side in sides if side), few.dtype, few.trained or more.trained,
                              few.coded or more.coded)
    elif isinstance(few, _CONSTANTS) and type(few) is type(more) and few == more:
        return few
    elif type(few) is type(more) is int and (line := _affine(few, more)) is not None:
        return line
    if not isinstance(few, (_ProbedTensor, *_CONSTANTS)):
        raise BoundaryError(layer, f"makes a {type(few).__name__}; between layers there may be tensors and numbers, "
                                   "alone or in tuples, lists and dictionaries")
    raise BoundaryError(layer, f"makes {_text([few])} of {PROBES[0]} samples and {_text([more])} of {PROBES[1]}; "
                               "shapes must grow in proportion to the samples")


def _text(leaves: Sequence[Any]) -> str:
    return ", ".join(f"{str(leaf.dtype).removeprefix('torch.')} {leaf.shape}" if isinstance(leaf, _ProbedTensor)
                     else repr(leaf) if isinstance(leaf, _CONSTANTS) else f"a {type(leaf).__name__}"
                     for leaf in leaves) or "nothing"


def _affine(few: int, more: int) -> Affine | None:
    slope = (more - few) // (PROBES[1] - PROBES[0])
    constant = few - slope * PROBES[0]
    return None if constant < 0 or slope < 0 else Affine(constant, slope)
