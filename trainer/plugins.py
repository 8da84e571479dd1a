"""What users bring: a function named `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether `name` has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def load_function(name: str) -> Callable[..., Any]:
    """The function; it is called with those of the offered keyword arguments that it names.

    Raises: UsageError if the module cannot be imported or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file here cannot take the place of a library
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{name}: the module {module_name} cannot be imported: {error}.") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError(f"{name}: the module {module_name} has no function {function_name}.")
    if not callable(function):
        raise UsageError(f"{name}: {function_name} is no function but of type {type(function).__name__}.")
    taken = inspect.signature(function).parameters
    everything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())

    def call(**offered: Any) -> Any:
        return function(**(offered if everything else {key: offered[key] for key in offered if key in taken}))

    return call
