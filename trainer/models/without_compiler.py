"""Optimizers and dispatch modes without the import of torch._dynamo, which takes about as long as that of torch.

PyTorch hides some functions from torch.compile by decorators that import its compiler, torch._dynamo, at their first
call: all methods of optimizers, and dispatch modes such as the counter of FLOPs. Nothing here is compiled. Where a
later PyTorch has no such decorators, or where the compiler is imported for another reason, everything is as usual.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def run_without_compiler(decorated: Callable[..., Any]) -> None:
    """Let a function with PyTorch's decorator `_disable_dynamo` run as it is."""
    function = getattr(decorated, "__wrapped__", None)
    if function is not None and not _has_compiler():
        setattr(function, "__dynamo_disable", function)


def optimizer_step(optimizer: Optimizer) -> None:
    """Make a step as `optimizer.step()` does; hooks of optimizers are not called."""
    if _has_compiler():
        optimizer.step()
        return
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def _has_compiler() -> bool:
    return "torch._dynamo" in sys.modules


for _method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
    run_without_compiler(_method)
