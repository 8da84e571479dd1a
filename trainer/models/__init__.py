"""Neural networks that can be split at any layer."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Load `build_layers` when it is imported from here; the other modules do not need the zoo."""
    if name == "build_layers":
        from trainer.models.building import build_layers

        return build_layers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
