"""The difference between intended and applied state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """The difference between intended and applied state of one switch, as readable lines."""

    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    foreign: tuple[str, ...]
