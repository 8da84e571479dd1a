"""The error raised for an invalid map."""

from __future__ import annotations


class MapError(Exception):
    """The map is invalid; each of `mistakes` is a sentence with file, location, value and a correction."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
