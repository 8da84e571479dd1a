"""Builds a model, of the zoo or the user's, as layers that every node builds alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from trainer.config.fine_tuning import ALL_TRAINED, FineTuning
from trainer.config.objectives import Objective
from trainer.errors import UsageError
from trainer.models.boundary import Boundary
from trainer.models.chain_check import CLASSES, check_against_own, check_layers
from trainer.models.constant_front import constant_cuts
from trainer.models.frozen import Unchanging, find_unchanging
from trainer.models.fx_split import is_plain_sequential, split_into_layers
from trainer.models.lora import tune
from trainer.models.rng import seeded
from trainer.models.value_checks import check_values, copied_model, make_copyable
from trainer.models.zoo import KINDS, MODELS, PRETRAINED, Integers, ModelSpec, SampleShape, check_model_name
from trainer.plugins import is_plugin_name, load_function


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """The layers of a model, the boundary at every cut 0..L, and the names of its values in the user's module.

    `names`: `<layer>.<name>` to the name in the module's own state dict. `unchanging`: for every layer the values that
    training does not change; `constant`: for every cut 0..L whether its segments depend on their samples alone.
    `joint`: of every layer whether it can run on the rows of several edges at once; `draws_random`: whether some layer
    draws random numbers, as dropout does. Only the cloud finds out about these.
    """

    layers: list[nn.Module]
    boundaries: list[Boundary]
    names: dict[str, str]
    unchanging: Unchanging
    constant: tuple[bool, ...]
    joint: tuple[bool, ...] = ()
    draws_random: bool = True


def build_layers(
    name: str, seed: int, sample_shape: SampleShape, classes: int, integers: Integers | None = None
) -> list[nn.Module]:
    """Build the layers of a model; their initial weights depend only on `seed`.

    Raises: UsageError if there is no such model, it does not accept such samples, or it cannot be split.
    """
    return build_model(name, seed, sample_shape, classes, integers).layers


def build_model(
    name: str, seed: int, sample_shape: SampleShape, classes: int, integers: Integers | None = None,
    verify: bool = False, objective: Objective = CLASSES, tuning: FineTuning = ALL_TRAINED,
) -> BuiltModel:
    """Build a model; its initial weights depend only on `seed`.

    `integers`: least and greatest value of inputs that are whole numbers; None: real numbers. `classes`: outputs for a
    sample; `objective` has the shape of its targets. `verify`: compare the
    layers of a user's model with the model itself. `tuning`: what of the model is trained.

    Raises: UsageError if there is no such model, it does not accept such samples, cannot be split, or its layers
        compute something else than the model.
    """
    check_model_name(name)

    def batch(samples: int) -> torch.Tensor:
        return random_batch(samples, sample_shape, integers)

    with seeded(seed):
        if not is_plugin_name(name):
            spec = (MODELS | PRETRAINED)[name]
            _check_vocabulary(spec, integers)
            layers = _build_from_zoo(spec, sample_shape, classes, objective)
            tune(nn.Sequential(*layers), tuning, name)
            boundaries = check_layers(layers, name, batch, classes, objective)
            return BuiltModel(layers, boundaries, state_names(None, layers), find_unchanging(layers, batch, name),
                              constant_cuts(layers, boundaries, batch))
        model = _own_module(name, sample_shape, classes, objective)
        if isinstance(model, nn.Module):
            make_copyable(model)
            check_values(model, name)
            tune(model, tuning, name)
        own = copied_model(model, name) if verify and isinstance(model, nn.Module) else None
        layers = split_into_layers(model, name, batch)
        boundaries = check_layers(layers, name, batch, classes, objective)
        names = state_names(model, layers)
        if own is not None:
            check_against_own(own, layers, boundaries, names, name, batch)
        unchanging = find_unchanging(layers, batch, name)
        constant = constant_cuts(layers, boundaries, batch)
    return BuiltModel(layers, boundaries, names, unchanging, constant)


def random_batch(samples: int, sample_shape: SampleShape, integers: Integers | None = None) -> torch.Tensor:
    """Return inputs for a check, always the same: normally distributed, or whole numbers of a range."""
    generator = torch.Generator().manual_seed(samples)
    shape = (samples, *sample_shape)
    if integers is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(integers[0], integers[1] + 1, shape, generator=generator)


def state_names(model: nn.Module | None, layers: Sequence[nn.Module]) -> dict[str, str]:
    """Return the names of the layers' values in the model: in an `nn.Sequential` behind its child's, else equal."""
    if model is not None and not is_plain_sequential(model):
        prefixes = [""] * len(layers)
    else:
        children = map(str, range(len(layers))) if model is None else model._modules
        prefixes = [f"{child}." for child in children]
    return {
        f"{number}.{key}": prefixes[number] + key
        for number, layer in enumerate(layers)
        for key, _ in (*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False))
    }


def _own_module(name: str, sample_shape: SampleShape, classes: int, objective: Objective) -> Any:
    return _uncompiled(load_function(name)(sample_shape=sample_shape, classes=classes,
                                           target_shape=objective.target_shape or objective.class_shape))


def _uncompiled(model: Any) -> Any:
    """Undo torch.compile in a module and its parts: a layer runs alone, and each would be compiled in every process."""
    if not isinstance(model, nn.Module):
        return model
    model = _original(model)
    for part in list(model.modules()):
        if part._compiled_call_impl is not None:
            part._compiled_call_impl = None
        if (forward := getattr(part.forward, "_torchdynamo_orig_callable", None)) is not None:
            part.forward = MethodType(getattr(forward, "__func__", forward), part)
        for name, child in part._modules.items():
            part._modules[name] = None if child is None else _original(child)
    return model


def _original(module: nn.Module) -> nn.Module:
    while type(module).__name__ == "OptimizedModule":  # importing its class takes a second
        module = module._orig_mod  # type: ignore[assignment]
    return module


def user_module(
    name: str, seed: int, sample_shape: SampleShape, classes: int, objective: Objective = CLASSES,
    tuning: FineTuning = ALL_TRAINED,
) -> nn.Module:
    """Return the user's module, or an `nn.Sequential` of the zoo's layers, with its initial weights and adapters.

    Raises: UsageError.
    """
    check_model_name(name)
    with seeded(seed):
        model = _own_module(name, sample_shape, classes, objective) if is_plugin_name(name) else nn.Sequential(
            *_build_from_zoo((MODELS | PRETRAINED)[name], sample_shape, classes, objective))
        if not isinstance(model, nn.Module):
            raise UsageError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module.")
        tune(model, tuning, name)
    return model


def _check_vocabulary(spec: ModelSpec, integers: Integers | None) -> None:
    if spec.vocabulary is None:
        return
    if integers is None or not 0 <= integers[0] <= integers[1] < spec.vocabulary:
        found = "real numbers" if integers is None else f"numbers from {integers[0]} to {integers[1]}"
        raise UsageError(f"The model {spec.name} takes token ids, whole numbers from 0 to {spec.vocabulary - 1}; the "
                         f"samples are {found}.")


def _build_from_zoo(
    spec: ModelSpec, sample_shape: SampleShape, classes: int, objective: Objective
) -> list[nn.Module]:
    if objective.target_shape is not None and len(objective.target_shape) != 1:
        raise UsageError(f"The model {spec.name} makes a vector of each sample; its targets have the shape "
                         f"{objective.target_shape}, so give your own --model package.module:function.")
    if objective.class_shape:
        raise UsageError(f"The model {spec.name} makes one class of each sample; the data has classes of the shape "
                         f"{objective.class_shape} for each, so give your own --model package.module:function.")
    if len(sample_shape) not in spec.dimensions or min(sample_shape[1:], default=1) < spec.min_side:
        kinds = " or ".join(KINDS[number] for number in spec.dimensions)
        raise UsageError(
            f"The model {spec.name} takes {kinds} with sides of at least {spec.min_side}; the samples are "
            f"{' x '.join(map(str, sample_shape))}."
        )
    return spec.build(sample_shape, classes)
