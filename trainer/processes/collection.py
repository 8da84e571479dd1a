"""Python's garbage collection while many objects are made that stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Import modules without passes of the collector over all objects so far; later ones leave these out, too.

    Such passes take a seventh of the imports' time, and later ones copy every page that a process shares with the one
    that forked it. Source: gc.freeze, CPython issue 31558.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
