"""Where the cloud computes. What travels and what is kept always lies in ordinary memory."""

from __future__ import annotations

import torch

from trainer.errors import UsageError


def device_of(name: str) -> torch.device:
    """`auto`: the first CUDA device if there is one, else the processor.

    Raises: UsageError if CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is cuda; PyTorch finds none here. Leave it at auto, or install a CUDA build.")
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")
