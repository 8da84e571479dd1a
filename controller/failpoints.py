"""Fail points: named points at which a test may kill the process."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class FailPoint(StrEnum):
    """The points of a change at which a test may kill the process; not every change passes all of them."""

    DECIDED = "decided"
    """The change is decided and its capacity booked, but not yet sent to switches or written to the ledger."""
    LAID = "laid"
    TURNED = "turned"
    OPENED = "opened"
    CLOSED = "closed"
    CLEARED = "cleared"
    """The switches concerned have confirmed that stage (see dataplane.update_order.Stage)."""
    RECORDING = "recording"
    """Inside the ledger's transaction, before the commit."""
    RECORDED = "recorded"
    """The ledger's transaction is committed; no reply has been sent."""


_watchers: list[Callable[[FailPoint], None]] = []


def failpoint(point: FailPoint) -> None:
    """Report that the calling thread has reached this point; a watcher may kill the process here."""
    for watcher in _watchers:
        watcher(point)


def on_failpoint(watcher: Callable[[FailPoint], None]) -> None:
    """Register a callback that is called at every fail point, in the thread that reaches it."""
    _watchers.append(watcher)
