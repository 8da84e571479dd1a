"""Limits of the REST interface on connections, headers and waiting times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestLimits:
    """Limits of each connection, of each client address and in total; docs/rest-api.md has the table."""

    connections: int = 2048
    connections_per_address: int = 512
    """Beyond these, connections that carry no complete request are closed, oldest first; an IPv6 address counts as
    its /64 network."""
    header_bytes: int = 16_384
    """Request line and headers of one request together."""
    header_s: float = 10.0
    """From the start of a connection, or the first byte of a later request, to the end of the headers; the TLS
    handshake has as long."""
    write_s: float = 30.0
    """How long a client may leave a response unread."""
    linger_s: float = 2.0
    """How long the rest of a request is read and discarded after its response. Source: RFC 9112 §9.6."""

    def within(self, descriptors: int) -> RestLimits:
        """These limits where the process may open this many files."""
        connections = max(1, min(self.connections, (descriptors - RESERVED_DESCRIPTORS) * 3 // 4))
        per_address = max(1, min(self.connections_per_address, connections // 2))
        rest = (self.header_bytes, self.header_s, self.write_s, self.linger_s)
        return RestLimits(connections, per_address, *rest)


RESERVED_DESCRIPTORS = 256
"""Descriptors for files, databases and the connections of switches."""
