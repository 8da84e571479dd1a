"""Limits of the OpenFlow interface on connections and on what a switch may send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenFlowLimits:
    """Limits of each connection, of each address and in total; docs/rest-api.md has the table."""

    handshake_s: float = 10.0
    """From the start of a connection to the description of the switch's ports; the TLS handshake is part of it."""
    handshakes: int = 512
    handshakes_per_address: int = 256
    """Connections whose handshake is incomplete; beyond these the oldest one is closed."""
    new_per_s: float = 50.0
    """New connections of one address, after a burst of `handshakes`; further ones are closed at once."""
    unknown_switches: int = 16
    """Connections of switches that are not on the map."""
    reply_bytes: int = 32 << 20
    reply_parts: int = 8192
    """All parts of one multipart reply."""
    ports: int = 1024
    """Ports that a switch may describe."""
    messages_per_s: float = 500.0
    """Messages of a connection that answer no request of ours; a faster switch is read more slowly."""
    unsent_bytes: int = 64 << 20
    """What a switch may leave unread."""
