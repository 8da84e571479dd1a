"""The open connections of the REST interface, limited in total and per client address.

At a limit the oldest connection without a complete request is closed in favour of the new one, so that connections on
which nothing is asked shut nobody out. Connections with a request in progress are never closed for others.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from controller.api.limits import RestLimits


class ClientConnection:
    """One accepted connection. `abort` closes it."""

    def __init__(self, table: ConnectionTable, address: str, accepted: socket.socket) -> None:
        self._table = table
        self.address = address
        self.group: dict[ClientConnection, None] | None = None
        """The one of AddressConnections that it is in."""
        self.abort: Callable[[], None] = lambda: shut_down(accepted)

    def set_busy(self) -> None:
        """A complete request has been received."""
        if self.group is not None:
            self.move(self._table.of(self.address).busy)

    def set_idle(self) -> None:
        """The response is complete."""
        if self.group is not None:
            self.move(self._table.of(self.address).idle)

    def move(self, group: dict[ClientConnection, None] | None) -> None:
        """Put it into a group as the newest; None: count it no longer."""
        if self.group is not None:
            del self.group[self]
        self.group = group
        if group is not None:
            group[self] = None

    def closed(self) -> None:
        """The connection is closed."""
        self._table.remove(self)


class AddressConnections:
    """Connections of one address by state, each group oldest first. `fresh`: no request was ever answered on it."""

    __slots__ = ("busy", "fresh", "idle")

    def __init__(self) -> None:
        self.fresh: dict[ClientConnection, None] = {}
        self.idle: dict[ClientConnection, None] = {}
        self.busy: dict[ClientConnection, None] = {}

    def __len__(self) -> int:
        return len(self.fresh) + len(self.idle) + len(self.busy)

    def oldest_closable(self) -> ClientConnection | None:
        """The connection to close first, if any may be closed."""
        return next(iter(self.fresh), None) or next(iter(self.idle), None)

class ConnectionTable:
    """All connections; used by the thread of the event loop only. `closed_for`: how many were closed, by limit."""

    def __init__(self, limits: RestLimits) -> None:
        self._limits = limits
        self._by_address: dict[str, AddressConnections] = {}
        self.open = 0
        self.closed_for: Counter[str] = Counter()

    def of(self, address: str) -> AddressConnections:
        """The connections of an address."""
        return self._by_address.setdefault(address, AddressConnections())

    def admit(self, peer: str, accepted: socket.socket) -> ClientConnection | None:
        """Count a new connection, if need be in place of another one; None if it must be closed."""
        address = address_key(peer)
        own = self.of(address)
        if len(own) >= self._limits.connections_per_address and not self._close_oldest(own, "address"):
            return None
        if self.open >= self._limits.connections and not self.close_oldest():
            return None
        connection = ClientConnection(self, address, accepted)
        connection.move(self.of(address).fresh)
        self.open += 1
        return connection

    def close_oldest(self) -> bool:
        """Close a connection of the address that has the most closable ones; False if there is none."""
        closable = [each for each in self._by_address.values() if each.fresh or each.idle]
        return bool(closable) and self._close_oldest(max(closable, key=lambda each: len(each.fresh) or -1), "total")

    def _close_oldest(self, own: AddressConnections, limit: str) -> bool:
        connection = own.oldest_closable()
        self.closed_for[limit] += 1
        if connection is None:
            return False
        self.remove(connection)
        connection.abort()
        return True

    def remove(self, connection: ClientConnection) -> None:
        """Count a connection no longer."""
        own = self.of(connection.address)
        if connection.group is not None:
            connection.move(None)
            self.open -= 1
        if not len(own):
            del self._by_address[connection.address]


def address_key(peer: str) -> str:
    """The address as it is counted: an IPv6 client has a /64 network to itself."""
    try:
        parsed = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(parsed, ipaddress.IPv4Address):
        return peer
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def shut_down(connection: socket.socket) -> None:
    """End a connection whose socket belongs to a transport."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
