"""The error raised for an invalid map, and names listed in its sentences."""

from __future__ import annotations


class MapError(Exception):
    """The map is invalid; each of `mistakes` is a sentence with file, location, value and a correction."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def listed(names: list[str] | tuple[str, ...], most: int = 12) -> str:
    """Names for a sentence; of very many the first ones and how many follow."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
