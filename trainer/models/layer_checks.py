"""Checks of layers and optimizer state that another node sent, against this node's own copy of the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trainer.errors import ProtocolError
from trainer.models.frozen import trained_parameters
from trainer.models.stage import Stage


def check_layers(
    stage: Stage, numbers: Iterable[int], tensors: Mapping[str, Tensor], max_steps: int, with_state: bool = True
) -> None:
    """Check that the tensors, named as by `Stage.export_layers`, are these layers with a possible optimizer state.

    `max_steps`: the largest number of optimizer steps that can have been made. `with_state`: there may be such a state.

    Raises: ProtocolError that names the tensor.
    """
    unknown = dict(tensors)
    for number in numbers:
        for name, own in stage.changing_values(number).items():
            _check_value(f"{number}.value.{name}", own, unknown)
        if with_state:
            _check_state(number, trained_parameters(stage.layers[number]), stage.optimizer.state_names, unknown,
                         max_steps)
    if unknown:
        raise ProtocolError(f"it sent {_quoted(next(iter(unknown)))}, which is no part of the layers it trains.")


def _check_value(key: str, own: Tensor, tensors: dict[str, Tensor]) -> None:
    tensor = _take(key, own, tensors)
    own = own.cpu()
    # Buffers such as a mask of -inf are not finite from the beginning.
    if not bool((torch.isfinite(tensor) | (tensor == own)).all()):
        raise ProtocolError(f"its {_quoted(key)} holds {_first_not_finite(tensor)}; layers hold finite numbers only.")
    if key.endswith("running_var"):
        _check_not_negative(key, tensor, "variances")


def _check_state(
    number: int, parameters: list[nn.Parameter], names: tuple[str, ...], tensors: dict[str, Tensor], max_steps: int
) -> None:
    for index, parameter in enumerate(parameters):
        keys = {name: f"{number}.state.{index}.{name}" for name in names}
        if not any(key in tensors for key in keys.values()):
            continue  # no step with a gradient of this parameter yet
        for name, key in keys.items():
            if name == "step":
                _check_step(key, tensors, max_steps)
                continue
            tensor = _take(key, parameter, tensors)
            if not bool(torch.isfinite(tensor).all()):
                raise ProtocolError(f"its {_quoted(key)} holds {_first_not_finite(tensor)}; optimizer state is finite.")
            if name == "exp_avg_sq":
                _check_not_negative(key, torch.view_as_real(tensor) if tensor.is_complex() else tensor,
                                    "second moments")


def _check_step(key: str, tensors: dict[str, Tensor], max_steps: int) -> None:
    step = tensors.pop(key, None)
    if step is None or step.numel() != 1 or not step.is_floating_point():
        raise ProtocolError(f"its {_quoted(key)} is not one number; it is the number of optimizer steps.")
    value = float(step)
    if not (1 <= value <= max_steps and value.is_integer()):
        raise ProtocolError(f"its {_quoted(key)} is {value:g}; at most {max_steps} steps have been made.")


def _take(key: str, own: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    tensor = tensors.pop(key, None)
    if tensor is None:
        raise ProtocolError(f"it did not send {_quoted(key)}, which belongs to the layers it trains.")
    if tensor.shape != own.shape or tensor.dtype != own.dtype:
        raise ProtocolError(f"its {_quoted(key)} is {tensor.dtype} {tuple(tensor.shape)}; it must be {own.dtype} "
                            f"{tuple(own.shape)}.")
    return tensor


def _check_not_negative(key: str, tensor: Tensor, what: str) -> None:
    if tensor.numel() and bool((tensor < 0).any()):
        raise ProtocolError(f"its {_quoted(key)} holds {tensor.min().item():g}; {what} are at least 0.")


def _first_not_finite(tensor: Tensor) -> str:
    return str(tensor[~torch.isfinite(tensor)].reshape(-1)[0].item())


def _quoted(key: str) -> str:
    """Return a name that a peer sent, limited in length and without control characters."""
    return repr(key[:80])
