"""Find what a forward pass does that a graph of it would not repeat: assigning state, drawing random numbers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


class StateChangedError(Exception):
    """A forward pass assigns a buffer or a number of its module, which a graph would not repeat."""


class RandomNumbersError(Exception):
    """A forward pass draws random numbers that do not depend on its input: a graph would keep those of the trace."""


@contextlib.contextmanager
def drawing_nothing() -> Iterator[None]:
    """Have tracing draw no random numbers; the generators stay as they are.

    Raises: RandomNumbersError.
    """
    ours, pythons, numpys = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        same = (torch.equal(torch.get_rng_state(), ours) and random.getstate() == pythons
                and repr(np.random.get_state()) == repr(numpys))
        torch.set_rng_state(ours)
        random.setstate(pythons)
        np.random.set_state(numpys)
    if not same:
        raise RandomNumbersError("its forward pass draws random numbers that do not depend on its input")


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the attributes and buffers that tracing replaces.

    Raises: StateChangedError if one of them is a buffer or a number.
    """
    before = [(module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    changed = ""
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            changed = changed or _changed(module, attributes, buffers)
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
    if changed:
        raise StateChangedError(f"its forward pass assigns self.{changed}")


def _changed(module: nn.Module, attributes: dict[str, Any], buffers: dict[str, Any]) -> str:
    """Return the name of a buffer or number that was assigned; empty if there is none."""
    for name, value in module._buffers.items():
        if buffers.get(name) is not value:
            return name
    for name, value in attributes.items():
        if isinstance(value, int | float | str) and module.__dict__.get(name) is not value:
            return name
    return ""
