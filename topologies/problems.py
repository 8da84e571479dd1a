"""What can be wrong with a map."""

from __future__ import annotations


class MapError(Exception):
    """The map cannot be used; `mistakes` are sentences that name file, place, value and what would be right."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
