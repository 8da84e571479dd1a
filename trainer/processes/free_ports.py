"""Free TCP ports on loopback for a run."""

from __future__ import annotations

import contextlib
import random
import socket

from trainer.errors import UsageError

FIRST_PORTS, LAST_PORTS = 20_000, 32_000
"""Below those that the kernel gives to connections."""


def free_ports(edges: int) -> int:
    """Return the first of consecutive ports for the cloud and the edges that are free now.

    Raises: UsageError.
    """
    for first in random.sample(range(FIRST_PORTS, LAST_PORTS, 8), 200):
        with contextlib.suppress(OSError):
            for port in range(first, first + 1 + edges):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise UsageError(f"No {1 + edges} consecutive ports from {FIRST_PORTS} on are free; give port.")
