"""Checks of a user's module before it is divided: what it keeps can be copied, sent and averaged."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainer.errors import UsageError
from trainer.plugins import describe_error

SENT_TYPES = frozenset({
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
})
"""Types of tensors that can be sent (`trainer.protocol.framing`)."""


def make_copyable(model: nn.Module) -> None:
    """Give every buffer memory of its own, and detach tensors that a module has computed and kept.

    The weight that `torch.nn.utils.weight_norm` computes before every forward pass is one; it cannot be copied with its
    graph.
    """
    for module in model.modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                module.__dict__[name] = value.detach()
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.layout == torch.strided and 0 in buffer.stride() and buffer.numel() > 1:
                module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)


def copied_model(model: nn.Module, name: str) -> nn.Module:
    """Return a copy of a module.

    Raises: UsageError if it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UsageError(f"{name} cannot be copied: {describe_error(error)}; a module may keep tensors, numbers, text, "
                         "functions and other modules, and must make all else in its forward pass.") from error


def check_values(model: nn.Module, name: str) -> None:
    """Check the parameters and buffers of a module.

    Raises: UsageError that names the first that cannot be trained, sent or averaged.
    """
    for path, value in _values(model):
        if not is_lazy(value) and (mistake := _mistake(value)):
            raise UsageError(f"{name}: {_owner(model, path)} has {path}, {mistake}.")
    for path, part in reversed(list(model.named_modules())):
        try:
            extra = [key for key, value in part.state_dict(keep_vars=True).items() if not isinstance(value, Tensor)]
        except Exception as error:
            raise UsageError(f"{name}: {_owner(model, f'{path}.')} has a state that cannot be read: "
                             f"{describe_error(error)}.") from error
        if extra:
            raise UsageError(f"{name}: {_owner(model, f'{path}.')} has {extra[0]} in its state, which is no tensor and "
                             "can be neither sent nor averaged, as in modules that are quantized already.")


def check_shapes_known(model: nn.Module, name: str) -> None:
    """Check that no parameter waits for a first sample.

    Raises: UsageError.
    """
    for path, value in _values(model):
        if is_lazy(value):
            raise UsageError(f"{name}: {_owner(model, path)} has parameters without a shape until it has seen a "
                             "sample; state their sizes, or run the model once on a sample before it is returned.")


def _values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _owner(model: nn.Module, path: str) -> str:
    """Return the path and the class of the module that has the value at a path."""
    parent = path.rpartition(".")[0]
    return f"{parent or 'the model'} ({type(model.get_submodule(parent)).__name__})"


def _mistake(value: Tensor) -> str:
    """Return what is wrong with a parameter or buffer; empty if nothing is."""
    if value.is_meta:
        return "which has no values (device meta); make the module on the CPU"
    if value.layout != torch.strided:
        return "a sparse tensor, which can be neither sent nor averaged; make it sparse in the forward pass"
    if value.is_inference():
        return "which was made in torch.inference_mode and cannot be trained; make the module outside of it"
    if value.dtype not in SENT_TYPES:
        return f"of type {str(value.dtype).removeprefix('torch.')}, which can be neither sent nor averaged"
    if value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None):
        return ("whose gradient has a hook: it is lost where the layers are copied; put what it does into the forward "
                "pass or a module's hook")
    return ""
