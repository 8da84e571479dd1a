"""The difference between intended and applied state."""

from __future__ import annotations

from dataclasses import dataclass

from controller.dataplane.entries import Entries, Key


@dataclass(frozen=True, slots=True)
class Drift:
    """The difference between intended and applied state of one switch, as readable lines."""

    missing: tuple[str, ...]
    wrong: tuple[str, ...]
    foreign: tuple[str, ...]


def differing_keys(read: Entries, expected: Entries) -> list[Key]:
    """The keys at which the entries differ. Hashing a key takes longer than comparing, so each is looked up once."""
    known = [key for key, entry in read.items() if expected.get(key) != entry]
    is_complete = len(read) == len(expected) and not known
    return known if is_complete else [*known, *(key for key in expected if key not in read)]
