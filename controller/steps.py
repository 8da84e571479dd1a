"""The steps of the writer by name, so that a test can end the process at each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from controller.reconcile import Stage


class Step(StrEnum):
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


STEP_OF: Mapping[Stage, Step] = {
    Stage.LAY: Step.LAID,
    Stage.TURN: Step.TURNED,
    Stage.OPEN: Step.OPENED,
    Stage.CLOSE: Step.CLOSED,
    Stage.CLEAR: Step.CLEARED,
}

_watchers: list[Callable[[Step], None]] = []


def reached(step: Step) -> None:
    """The writer stands here."""
    for watcher in _watchers:
        watcher(step)


def watch(watcher: Callable[[Step], None]) -> None:
    """Have this called at every step, in the thread that takes it."""
    _watchers.append(watcher)
