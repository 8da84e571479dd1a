"""User functions (models, data, policies), named `package.module:function`."""

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


def is_plugin_name(name: str) -> bool:
    """Return whether `name` has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def load_function(name: str) -> Callable[..., Any]:
    """Import a user function; the wrapper returned passes it only the keyword arguments that its signature names.

    Raises: UsageError if the module cannot be imported or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.append(directory)  # last, so that a local file cannot shadow a library
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{name}: the module {module_name} cannot be imported: {error}.") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError(f"{name}: the module {module_name} has no function {function_name}.")
    if not callable(function):
        raise UsageError(f"{name}: {function_name} is not a function but of type {type(function).__name__}.")
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())

    def call(**arguments: Any) -> Any:
        return function(**(arguments if takes_all else {key: arguments[key] for key in arguments if key in parameters}))

    return call
