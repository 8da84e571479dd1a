"""Checks before a run that the chain of layers computes what the user's own module computes.

Outputs, gradients and buffers are compared in training and in evaluation mode, with several samples and with one. The
chain is cut between all layers, as training may cut it between any.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.config.objectives import Objective
from trainer.errors import UsageError, UserCodeError
from trainer.models.boundary import Boundary, BoundaryError, LayerError, describe, find_boundaries, layer_title
from trainer.models.fx_split import addresses
from trainer.models.values import (
    Values,
    backward,
    gradients_of,
    is_differentiable,
    new_leaves,
    only_tensor,
    tensors_of,
)
from trainer.plugins import describe_error

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-5

BATCH_STATISTICS = "Expected more than 1 value per channel when training"
"""How PyTorch refuses to train batch normalization on one sample."""

Batch = Callable[[int], Tensor]

CLASSES = Objective()
"""Cross-entropy of classes."""


def check_layers(
    layers: Sequence[nn.Module], name: str, batch: Batch, classes: int, objective: Objective = CLASSES
) -> list[Boundary]:
    """Run the chain and return its boundaries; turns in-place operations off and leaves training mode on.

    Raises: UsageError that names the layer which does not fit or shares a parameter with another.
    """
    if not layers:
        raise UsageError(f"The model {name} has no layers.")
    for number, layer in enumerate(layers, start=1):
        if any(is_lazy(value) for value in (*layer.parameters(), *layer.buffers())):
            raise UsageError(f"{name}: {layer_title(layers, number)} has parameters without a shape until it has seen "
                             "a sample; state their sizes, or run the model once on a sample before it is returned.")
    owners: dict[int, int] = {}
    for number, layer in enumerate(layers, start=1):
        _disable_inplace(layer)
        for address in addresses(layer):
            owner = owners.setdefault(address, number)
            if owner != number:
                raise UsageError(f"{name}: layers {owner} and {number} share a parameter or buffer, so the model "
                                 "cannot be cut between them; make them one layer.")
    try:
        boundaries = find_boundaries(layers, batch)
    except LayerError as error:
        assert error.__cause__ is not None
        raise UserCodeError(f"{name}: {layer_title(layers, error.layer)} does not take samples of shape {error.taken}: "
                            f"{describe_error(error.__cause__)}.") from error
    except BoundaryError as error:
        raise UsageError(f"{name}: {layer_title(layers, error.layer)} {error}.") from error
    last, expected = boundaries[-1].tensors, objective.output_shapes(classes)
    if len(last) == 1 and not boundaries[-1].is_one_tensor:
        raise UsageError(f"{name}: {layer_title(layers, len(layers))} returns 1 tensor in a tuple or mapping; the last "
                         "layer must return it itself.")
    fits = len(boundaries[-1].leaves) == 1 and last[0].shape(7)[:1] == (7,) and last[0].dtype.is_floating_point
    if not fits or (expected and last[0].shape(7)[1:] not in expected):
        made = " and ".join(f"{str(spec.dtype).removeprefix('torch.')} {spec.shape(1)[1:]}" for spec in last)
        why = "one floating-point tensor for the loss" if not expected else (
            f"{expected[0]}: the targets of a sample" if objective.target_shape is not None
            else " or ".join(map(str, expected)))
        has = f"the data has {classes} classes, so it" if objective.target_shape is None else "it"
        raise UsageError(f"{name}: a sample leaves the last layer as {made.removeprefix('float32 ')}; {has} must be "
                         f"{why}.")
    return boundaries


def _disable_inplace(layer: nn.Module) -> None:
    """Turn off in-place operations, which would overwrite a segment that is being sent."""
    for module in layer.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.__dict__["inplace"] = False


def check_against_own(
    own: nn.Module, layers: Sequence[nn.Module], boundaries: Sequence[Boundary], names: Mapping[str, str], name: str,
    batch: Batch,
) -> None:
    """Compare copies of the chain and of the user's module; `names`: `<layer>.<name>` to the module's own names.

    Raises: UsageError that names the first layer which differs, UserCodeError if one of them fails.
    """
    for samples in (2, 1):
        for training in (True, False):
            mode = f"in {'training' if training else 'evaluation'} mode, of {samples} sample{'s'[: samples > 1]}"
            with torch.random.fork_rng(devices=[]):
                if samples > 1:
                    _check_repeats(copy.deepcopy(own).train(training), batch(samples), f"{name}: %s ({mode})")
                _compare(copy.deepcopy(own).train(training), _copies(layers, training),
                         boundaries, names, f"{name}: %s ({mode})", batch(samples))


def _check_repeats(own: nn.Module, values: Tensor, sentence: str) -> None:
    """Check that a second call makes the same values, with the same random numbers and the buffers of before.

    A call that depends on the calls before by other things than buffers could not go on where the layer is moved to.

    Raises: UsageError that names the first module which differs.
    """
    seed = torch.initial_seed()
    buffers = [(buffer, buffer.clone()) for buffer in own.buffers()]
    seen = _Outputs(own, "")
    calls = []
    for _ in range(2):
        torch.manual_seed(seed)
        try:
            seen.calls, made = [], own(values.clone())
        except Exception as error:
            raise UserCodeError(sentence % f"the model fails: {describe_error(error)}") from error
        calls.append([*seen.calls, ("", tensors_of(made))])
        for buffer, before in buffers:
            buffer.data.copy_(before)
    for (path, first), (_, second) in zip(*calls, strict=False):
        if len(first) != len(second) or not all(_are_close(*pair) for pair in zip(first, second, strict=True)):
            raise UsageError(sentence % f"{path or 'the model'} makes other values of the same samples when it is "
                             "called again: it keeps something between calls that is no buffer, or draws from a random "
                             "generator of its own, which does not move with the layers")


def _copies(layers: Sequence[nn.Module], training: bool) -> list[nn.Module]:
    """Copy the layers together, so that one which is used twice stays one."""
    return [layer.train(training) for layer in copy.deepcopy(list(layers))]


def _compare(
    own: nn.Module, layers: list[nn.Module], boundaries: Sequence[Boundary], names: Mapping[str, str], sentence: str,
    values: Tensor,
) -> None:
    seed = torch.initial_seed()
    torch.manual_seed(seed)
    own_seen, chain_seen = _Outputs(own, ""), _Outputs.of_layers(layers)
    try:
        expected = only_tensor(own(values.clone()))
    except Exception as error:
        if len(values) == 1 and own.training and BATCH_STATISTICS in str(error):
            return  # the sizes of micro-batches are checked when they are known
        raise UserCodeError(sentence % f"the model fails: {describe_error(error)}") from error
    torch.manual_seed(seed)
    outputs, leave = _run_apart(layers, boundaries, values, sentence)
    if not _are_close(expected, outputs):
        where = own_seen.first_difference(chain_seen) or layer_title(layers, len(layers))
        raise UsageError(sentence % f"{where} makes other values when the model is cut into layers than in the model "
                         "itself")
    weights = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(0))
    if expected.requires_grad:
        try:
            expected.backward(weights.to(expected.dtype))
        except Exception as error:
            raise UserCodeError(sentence % f"the model fails in its backward pass: {describe_error(error)}") from error
    leave(weights)
    _compare_state(own, layers, names, sentence)


def _compare_state(own: nn.Module, layers: Sequence[nn.Module], names: Mapping[str, str], sentence: str) -> None:
    """Compare gradients and buffers."""
    theirs = {**dict(own.named_parameters()), **dict(own.named_buffers())}
    for number, layer in enumerate(layers, start=1):
        for key, value in (*layer.named_parameters(), *layer.named_buffers()):
            other = theirs.get(names.get(f"{number - 1}.{key}", ""))
            if other is None:
                continue
            if other.grad is not None and other.grad.layout != torch.strided:
                raise UsageError(sentence % f"{layer_title(layers, number)} makes a sparse gradient of "
                                 f"{names[f'{number - 1}.{key}']}, which the optimizers here do not take; make it with "
                                 "sparse=False")
            for what, a, b in (("values", value, other), ("gradients", value.grad, other.grad)):
                zeros = torch.zeros_like(value)
                if not _are_close(zeros if a is None else a, zeros if b is None else b):
                    raise UsageError(sentence % f"{layer_title(layers, number)} has other {what} of "
                                     f"{names[f'{number - 1}.{key}']} than in the model itself")


def _run_apart(
    layers: Sequence[nn.Module], boundaries: Sequence[Boundary], values: Values, sentence: str
) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Run layer by layer, each on copies; return the output, and a function that backpropagates its gradient."""
    samples = len(values)
    passes: list[tuple[list[Tensor], Values]] = []
    for number, layer in enumerate(layers, start=1):
        leaves, entered = ([], values.clone()) if number == 1 else new_leaves(values)
        try:
            values = layer(entered)
        except Exception as error:
            raise UserCodeError(sentence % f"{layer_title(layers, number)} does not take samples of shape "
                                f"{describe(entered)}: {describe_error(error)}") from error
        passes.append((leaves, values))
        if layer.training or number == len(layers):
            _check_shapes(boundaries[number], values, samples, layer_title(layers, number), sentence)

    def leave(gradient: Tensor) -> None:
        gradients: list[Tensor | None] = [gradient]
        for leaves, made in reversed(passes):
            backward(made, gradients)
            gradients = gradients_of(leaves)

    return values, leave


def _check_shapes(boundary: Boundary, values: Values, samples: int, title: str, sentence: str) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors_of(values)]
    expected = [spec.shape(samples) for spec in boundary.tensors]
    if shapes != expected:
        raise UsageError(sentence % f"{title} makes {' and '.join(map(str, shapes)) or 'nothing'} of {samples} "
                         f"sample{'s'[: samples > 1]}; it must make {' and '.join(map(str, expected))}")


def _are_close(first: object, second: object) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
        return False
    if not is_differentiable(first) or first.dtype != second.dtype:
        return first.dtype == second.dtype and torch.equal(first, second)
    scale = max(1.0, float(second.detach().abs().nan_to_num(posinf=0.0).amax())) if second.numel() else 1.0
    return torch.allclose(first.detach(), second.detach(), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE * scale,
                          equal_nan=True)


class _Outputs:
    """The outputs of all modules without children, in the order of their calls."""

    def __init__(self, module: nn.Module | None = None, prefix: str = "") -> None:
        self.calls: list[tuple[str, list[Tensor]]] = []
        self.titles: dict[str, str] = {}
        if module is not None:
            self._watch(module, lambda path: prefix + path)

    @classmethod
    def of_layers(cls, layers: Sequence[nn.Module]) -> _Outputs:
        """Watch the layers of a chain, with their modules named as in the user's module."""
        seen = cls()
        repeated: dict[int, int] = {}
        for number, layer in enumerate(layers):
            title = layer_title(layers, number + 1)
            first = repeated.setdefault(id(layer), number)
            prefix = "" if type(layer).__name__ == "TracedLayer" else f"{first}."
            if first == number:
                seen._watch(layer, lambda path, prefix=prefix: (prefix + path).rstrip("."))  # type: ignore[misc]
            for path, _ in layer.named_modules():
                seen.titles.setdefault((prefix + path).rstrip("."), title)
        return seen

    def first_difference(self, chain: _Outputs) -> str | None:
        """Return the title of the layer whose module first made other values here than in the chain."""
        for (path, mine), (other_path, theirs) in zip(self.calls, chain.calls, strict=False):
            same = path == other_path and len(mine) == len(theirs)
            if not same or not all(_are_close(*pair) for pair in zip(mine, theirs, strict=True)):
                return chain.titles.get(path, chain.titles.get(other_path))
        longer = self.calls if len(self.calls) > len(chain.calls) else chain.calls
        rest = longer[min(len(self.calls), len(chain.calls)) :]
        return chain.titles.get(rest[0][0]) if rest else None

    def _watch(self, module: nn.Module, title: Callable[[str], str]) -> None:
        for path, part in _without_children(module):
            def record(_module: nn.Module, _inputs: object, output: object, path: str = title(path)) -> None:
                self.calls.append((path, [tensor.detach().clone() for tensor in tensors_of(output)]))
            part.register_forward_hook(record)


def _without_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, part) for path, part in module.named_modules() if not list(part.children()))
