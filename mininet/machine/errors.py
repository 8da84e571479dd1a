"""The one error of the emulation."""

from __future__ import annotations


class EmulationError(Exception):
    """The emulation cannot start or go on; the message is a sentence that says why and what to do."""
