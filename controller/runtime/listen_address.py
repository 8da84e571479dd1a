"""HOST:PORT to listen on: parsed, checked and bound."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence

import click

from controller.errors import StartError
from controller.security.access import is_management_address
from topologies.maps import MANAGEMENT_NETWORK

Address = tuple[str, int]


class AddressType(click.ParamType[Address]):
    """HOST:PORT with a numeric host, as `127.0.0.1:8080` or `[::1]:8080`."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Parse HOST:PORT, or fail with an example."""
        host, colon, port_text = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(host)
            port = int(port_text)
        except ValueError:
            port = 0
        if not colon or not 1 <= port <= 65535:
            self.fail(f"{value!r} is not an address; write it as 127.0.0.1:8080.", param, ctx)
        return host, port


def require_management_addresses(addresses: Sequence[Address]) -> None:
    """Check that a REST API without tokens listens on loopback or management addresses only.

    Raises: StartError naming an address that other networks can reach.
    """
    for host, _ in addresses:
        if not is_management_address(host, MANAGEMENT_NETWORK):
            sentence = (
                f"The REST API may not listen on {host} as long as there are no tokens: every client could reserve. "
                "Add a token (paceline token add NAME --ledger URL), or listen on this machine (127.0.0.1) or the "
                f"management network ({MANAGEMENT_NETWORK})."
            )
            raise StartError(sentence, exit_code=2)


@contextlib.contextmanager
def listening_socket(address: Address) -> Iterator[socket.socket]:
    """A socket on which the REST API listens."""
    with _bound_socket(address, "The REST API") as listener:
        listener.listen(128)
        yield listener


def require_free_port(address: Address, component: str) -> None:
    """Check that a port is free: eventlet shares ports (SO_REUSEPORT), so Ryu would not report one in use.

    Raises: StartError naming the port.
    """
    with _bound_socket(address, component) as probe:
        probe.listen(1)


@contextlib.contextmanager
def _bound_socket(address: Address, component: str) -> Iterator[socket.socket]:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only if the protocol is given; otherwise each reply is delayed by 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError as error:
            reason = error.strerror or str(error)
            advice = "Choose another port, or stop the process that uses it."
            sentence = f"{component} cannot listen on {host}:{port}: {reason}. {advice}"
            raise StartError(sentence, exit_code=3) from error
        yield bound
