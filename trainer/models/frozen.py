"""Frozen parameters: those that ask for no gradient. They are not trained, and their values are never sent.

A layer without trained parameters is frozen. No gradient passes through a chain of layers before the first trained one.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256

import torch
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models.boundary import PROBES
from trainer.models.values import Values, detached

Unchanging = tuple[frozenset[str], ...]
"""For every layer, the names in its state dict that training does not change."""

SHOWN_NAMES = 4


def freeze(model: nn.Module, patterns: Sequence[str], name: str) -> None:
    """Freeze the parameters that a pattern names; normalization whose statistics are named keeps them.

    A pattern names a parameter or buffer, or a module and so all within it; `fnmatch` wildcards. Normalization runs
    with its stored statistics from then on, as in Keras ("inference mode" of a layer that is not trainable).

    Raises: UsageError if a pattern names nothing.
    """
    names = [path for path, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())]
    for pattern in patterns:
        if not any(matches(path, [pattern]) for path in names):
            shown = ", ".join(names[:SHOWN_NAMES])
            raise UsageError(f"--freeze {pattern} names no parameter of {name}; its first ones are {shown}.")
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if matches(path, patterns):
            parameter.requires_grad_(False)
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and matches(f"{path}.running_mean", patterns):
            _keep_in_evaluation(module)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern names a parameter or buffer, or a module around it."""
    parts = path.split(".")
    prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatchcase(prefix, pattern) for pattern in patterns for prefix in prefixes)


def _keep_in_evaluation(module: nn.Module) -> None:
    module.eval()
    module.__dict__["train"] = types.MethodType(_stay_in_evaluation, module)  # a copy of the module has its own


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """Ignore the mode that is set on a module around this one."""
    return module


def trained_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a layer that are trained."""
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def backward_layers(layers: Sequence[nn.Module]) -> list[bool]:
    """Return for every layer whether it has a backward pass: it or one before it has trained parameters."""
    needed, reached = [], False
    for layer in layers:
        reached = reached or bool(trained_parameters(layer))
        needed.append(reached)
    return needed


def frozen_names(layer: nn.Module) -> frozenset[str]:
    """Return the names of the frozen parameters in a layer's state dict."""
    return frozenset(name for name, parameter in layer.named_parameters(remove_duplicate=False)
                     if not parameter.requires_grad)


def find_unchanging(layers: Sequence[nn.Module], batch: Callable[[int], Tensor], name: str) -> Unchanging:
    """Return the values that training does not change: frozen parameters, and buffers beside them that stay the same.

    Buffers are compared before and after a training pass of a copy, in layers with frozen parameters only.

    Raises: UsageError if no parameter is trained.
    """
    if not any(trained_parameters(layer) for layer in layers):
        if any(True for layer in layers for _ in layer.parameters()):
            raise UsageError(f"{name} has no trained parameter: all are frozen. Freeze fewer.")
        return tuple(frozenset() for _ in layers)
    frozen = [frozen_names(layer) for layer in layers]
    if not any(frozen):
        return tuple(frozen)
    unchanging = []
    values: Values = batch(PROBES[0])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for layer, names in zip(layers, frozen, strict=True):
            own = copy.deepcopy(layer).train()
            values = detached(own(values))
            state = layer.state_dict()
            same = {key for key, _ in layer.named_buffers(remove_duplicate=False)
                    if key in state and torch.equal(state[key], own.state_dict()[key])} if names else set()
            unchanging.append(names | same)
    return tuple(unchanging)


def digest(layers: Sequence[nn.Module], unchanging: Unchanging) -> str | None:
    """Return the SHA-256 digest of all values that training does not change, with their names; None without any."""
    return _digest_of(layers, unchanging) if any(unchanging) else None


def initial_digest(layers: Sequence[nn.Module], unchanging: Unchanging) -> str:
    """Return the SHA-256 digest of all other values, before the first step."""
    names = [frozenset(layer.state_dict()) - fixed for layer, fixed in zip(layers, unchanging, strict=True)]
    return _digest_of(layers, tuple(names))


def _digest_of(layers: Sequence[nn.Module], chosen: Unchanging) -> str:
    found = sha256()
    for number, (layer, names) in enumerate(zip(layers, chosen, strict=True)):
        state = layer.state_dict()
        for name in sorted(names):
            value = state[name].detach().cpu().contiguous()
            found.update(f"{number}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def copy_sharing(layers: Sequence[nn.Module], unchanging: Unchanging) -> list[nn.Module]:
    """Return copies of layers that share the values which training does not change.

    Source: Menos (Middleware 2024) and Symbiosis (2025): the clients of a server share one frozen base model.
    """
    shared: dict[int, Tensor] = {}
    for layer, names in zip(layers, unchanging, strict=True):
        values = (*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False))
        shared |= {id(value): value for name, value in values if name in names}
    return copy.deepcopy(list(layers), dict(shared))
