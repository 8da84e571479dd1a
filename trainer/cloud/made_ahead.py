"""Results made before they are needed, each for one use: if they are needed for other inputs, they are made then."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class MadeAhead:
    """Results by what they depend on. `is_ahead`: what `get` makes is kept for a later call, too."""

    def __init__(self) -> None:
        self.is_ahead = False
        self._results: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result for a key that was made ahead, once, or what `make` returns."""
        if not self.is_ahead and key in self._results:
            kept: T = self._results.pop(key)
            return kept
        made = make()
        if self.is_ahead:
            self._results[key] = made
        return made

    def forget(self) -> None:
        """Forget all results: the next calls make them."""
        self._results.clear()
