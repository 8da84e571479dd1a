"""The error of the emulation."""

from __future__ import annotations


class EmulationError(Exception):
    """The emulation cannot start or continue; the message names the cause and the remedy."""
