"""What flows between layers: one tensor, or a tuple or mapping of tensors and numbers (a PyTorch pytree)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Values = Any
"""A tensor, or a pytree of tensors, numbers and None."""


def tensors_of(values: Values) -> list[Tensor]:
    """Return the tensors in a fixed order."""
    return [leaf for leaf in _pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def only_tensor(values: Values) -> Values:
    """Return the tensor if there is exactly one, as in the output of a model of the library transformers."""
    tensors = tensors_of(values)
    return tensors[0] if len(tensors) == 1 else values


def is_differentiable(tensor: Tensor) -> bool:
    """Return whether a tensor can have a gradient: real or complex floating point."""
    return tensor.is_floating_point() or tensor.is_complex()


def detached(values: Values) -> Values:
    """Return the values without their graph."""
    return _pytree.tree_map_only(Tensor, Tensor.detach, values)


def copied(values: Values) -> Values:
    """Return copies of the tensors, which a layer may modify in place."""
    return _pytree.tree_map_only(Tensor, Tensor.clone, values)


def to_device(values: Values, device: torch.device) -> Values:
    """Return the values on a device."""
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), values)


def new_leaves(values: Values, needs_gradient: Sequence[bool] | None = None) -> tuple[list[Tensor], Values]:
    """Return the differentiable tensors as leaves of a new graph, and the values that depend on them.

    `needs_gradient`: which of them need a gradient; None: all.
    The values are copies: a leaf that requires a gradient cannot be modified in place, as a layer may do.
    """
    flat, structure = _pytree.tree_flatten(values)
    leaves: list[Tensor] = []
    copies: list[Any] = []
    for item in flat:
        if isinstance(item, Tensor) and is_differentiable(item):
            leaf = item.detach().requires_grad_(needs_gradient is None or needs_gradient[len(leaves)])
            leaves.append(leaf)
            copies.append(leaf.clone())
        else:
            copies.append(item.clone() if isinstance(item, Tensor) else item)
    return leaves, _pytree.tree_unflatten(copies, structure)


def gradients_of(leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of leaves after a backward pass; zeros where nothing depends on a leaf.

    None for a leaf that needs no gradient.
    """
    return [None if not leaf.requires_grad else torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for leaf in leaves]


def differentiable(values: Values) -> list[Tensor]:
    """Return the tensors that can have a gradient, in a fixed order."""
    return [tensor for tensor in tensors_of(values) if is_differentiable(tensor)]


def backward(values: Values, gradients: Sequence[Tensor | None]) -> None:
    """Backpropagate the gradients of `differentiable(values)`; None where there is none."""
    pairs = [(output, gradient) for output, gradient in zip(differentiable(values), gradients, strict=True)
             if output.requires_grad and gradient is not None]
    if pairs:
        torch.autograd.backward([_given(output, gradient) for output, gradient in pairs])


class _GivenGradient(torch.autograd.Function):
    """A scalar whose backward pass passes on a given gradient.

    `torch.autograd.backward` with gradients imports sympy to compare shapes, which takes half a second of a processor;
    with scalars it does not.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, gradient: Tensor) -> Tensor:
        """Keep the gradient."""
        ctx.gradient = gradient
        return output.new_zeros((), dtype=output.real.dtype)

    @staticmethod
    def backward(ctx: Any, *_ones: Any) -> tuple[Tensor, None]:
        """Pass it on."""
        return ctx.gradient, None


def match(values: Values, gradients: Sequence[Tensor | None]) -> bool:
    """Return whether gradients have the number and the shapes of `differentiable(values)`."""
    outputs = differentiable(values)
    return len(outputs) == len(gradients) and all(
        gradient is None or gradient.shape == output.shape for output, gradient in zip(outputs, gradients, strict=True)
    )


def _given(output: Tensor, gradient: Tensor) -> Tensor:
    scalar: Tensor = _GivenGradient.apply(output, gradient)  # type: ignore[no-untyped-call]
    return scalar
