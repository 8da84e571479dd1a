"""What torch.fx would lose of a user's forward pass: the backward pass of a function, and where gradients end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree


@contextlib.contextmanager
def autograd_functions_stay_whole() -> Iterator[None]:
    """While a module is traced, a call of a function's `apply` is one node.

    torch.fx would trace the function's forward pass and differentiate that.
    """
    original = torch.autograd.Function.__dict__["apply"]
    nodes: dict[type, Callable[..., Any]] = {}

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        proxies = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, fx.Proxy)]
        if not proxies:
            return original.__get__(None, cls)(*args, **kwargs)
        function = nodes.setdefault(cls, _named(cls))
        return proxies[0].tracer.create_proxy("call_function", function, args, kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


def without_gradient(value: Any) -> Any:
    """Return tensors, alone or in containers, as constants; other values as they are."""
    return _pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, value)


def _named(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return a function that applies a class; torch.fx writes its name into the code of a graph."""
    def apply(*args: Any, **kwargs: Any) -> Any:
        return cls.apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    apply.__name__ = apply.__qualname__ = f"apply_{cls.__name__}"
    return apply
