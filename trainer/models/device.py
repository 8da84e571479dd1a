"""Selects the device the cloud computes on. Tensors that are sent or stored are always in host memory."""

from __future__ import annotations

import torch

from trainer.errors import UsageError


def check_device(name: str) -> None:
    """Check that a device that was asked for by name is there; `auto` always is.

    Raises: UsageError.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is cuda; PyTorch finds none here. Leave it at auto, or install a CUDA build.")


def select_device(name: str) -> torch.device:
    """Return the device for `auto` (the first CUDA device if any, else the CPU), `cpu` or `cuda`.

    Raises: UsageError if `cuda` is requested and not available.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    check_device(name)
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")
