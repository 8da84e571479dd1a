"""Addresses to listen on: written, checked and bound."""

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
        """Read it, or say what would be right."""
        host, colon, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(host)
            number = int(port)
        except ValueError:
            number = 0
        if not colon or not 1 <= number <= 65535:
            self.fail(f"{value!r} is not an address; write it as 127.0.0.1:8080.", param, ctx)
        return host, number


def check_near(addresses: Sequence[Address]) -> None:
    """Whether the REST interface may listen there for everybody.

    Raises: StartError naming an address that strangers can reach.
    """
    for host, _ in addresses:
        if not is_management_address(host, MANAGEMENT_NETWORK):
            sentence = (
                f"The REST interface may not listen on {host} as long as there are no tokens: everybody there could "
                "reserve. Make one (paceline token add NAME --ledger URL), or listen on this machine (127.0.0.1) or "
                f"the management network ({MANAGEMENT_NETWORK})."
            )
            raise StartError(sentence, exit_code=2)


@contextlib.contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    with _bound(address, "The REST interface") as listener:
        listener.listen(128)
        yield listener


def check_free(address: Address, what: str) -> None:
    """Eventlet shares ports (SO_REUSEPORT), so a taken one would go unnoticed."""
    with _bound(address, what) as probe:
        probe.listen(1)


@contextlib.contextmanager
def _bound(address: Address, what: str) -> Iterator[socket.socket]:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; else each answer waits 40 ms for an acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError as error:
            reason = error.strerror or str(error)
            sentence = f"{what} cannot listen on {host}:{port}: {reason}. Choose another port, or end what uses it."
            raise StartError(sentence, exit_code=3) from error
        yield bound
