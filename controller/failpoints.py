"""The steps of the writer by name, so that a test can end the process at each of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class FailPoint(StrEnum):
    """Between these, the process may die at any moment. Not every change has all of them."""

    DECIDED = "decided"
    """It is decided and its capacity counted; no switch and no ledger knows of it."""
    LAID = "laid"
    TURNED = "turned"
    OPENED = "opened"
    CLOSED = "closed"
    CLEARED = "cleared"
    """The switches concerned have confirmed that stage (see reconcile.Stage)."""
    RECORDING = "recording"
    """Inside the ledger's transaction, before it is committed."""
    RECORDED = "recorded"
    """It is committed; nobody has been answered."""



_watchers: list[Callable[[FailPoint], None]] = []


def failpoint(step: FailPoint) -> None:
    """The writer stands here."""
    for watcher in _watchers:
        watcher(step)


def on_failpoint(watcher: Callable[[FailPoint], None]) -> None:
    """Have this called at every step, in the thread that takes it."""
    _watchers.append(watcher)
