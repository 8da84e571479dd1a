"""User functions (models, data, policies), named `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError, UsageError, UserCodeError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_plugin_name(name: str) -> bool:
    """Return whether `name` has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def load_positional(name: str) -> Callable[..., Any]:
    """Import a user function.

    Raises: UsageError if the module cannot be imported or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.append(directory)  # last, so that a local file cannot shadow a library
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name}: the module {module_name} cannot be imported: {describe_error(error)}.") from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError(f"{name}: the module {module_name} has no function {function_name}.")
    if not callable(function):
        raise UsageError(f"{name}: {function_name} is not a function but of type {type(function).__name__}.")
    loaded: Callable[..., Any] = function
    return loaded


def load_function(name: str) -> Callable[..., Any]:
    """Import a user function; the wrapper returned passes it only the keyword arguments that its signature names.

    Raises: UsageError as `load_positional`. The wrapper raises UsageError if the function requires others, and
    UserCodeError if it fails.
    """
    function = load_positional(name)
    parameters = _parameters(function)

    def call(**arguments: Any) -> Any:
        if unknown := [name for name in _required(function) if name not in arguments]:
            raise UsageError(f"{name} requires the parameter{'s'[: len(unknown) > 1]} {', '.join(unknown)}; "
                             f"{', '.join(arguments)} are what it can get, by these names; others need a default.")
        accepted = arguments if parameters is None else {key: arguments[key] for key in arguments if key in parameters}
        try:
            return function(**accepted)
        except TrainerError:
            raise
        except (Exception, SystemExit) as error:
            raise UserCodeError(f"{name} failed: {describe_error(error)}.") from error

    return call


def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of a function's parameters; None if it takes any keyword."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # some functions of extension modules have no signature
        return None
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_all else frozenset(parameters)


def _required(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters without which a function cannot be called, and of those without names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return []
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty
            and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]


def describe_error(error: BaseException) -> str:
    """Return type and text of an error in user code in one line, with file and line of the user's innermost frame."""
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}".removesuffix(": ").rstrip(".")
    if isinstance(error, SyntaxError):
        return what  # its text has file and line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_user_file(frame.filename)]
    return f"{what} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else what


def _is_user_file(filename: str) -> bool:
    """Return whether a file belongs neither to Python, nor to an installed package, nor to Paceline."""
    if filename.startswith("<"):
        return False
    libraries = (sysconfig.get_path("stdlib"), *site.getsitepackages(), str(Path(__file__).parent))
    return not any(Path(filename).is_relative_to(library) for library in libraries)
