"""Identifiers that a map may state: datapath ids of switches, addresses of hosts, port numbers of links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any

from topologies.maps import MANAGEMENT_NETWORK

HEXADECIMAL = frozenset("0123456789abcdef")

Mistake = tuple[tuple[str | int, ...], object, str]
"""Location, value, and what would be right."""
Entries = Sequence[tuple[int, dict[str, Any]]]


def datapath_id(value: object) -> int:
    """A datapath id as a number. It must be quoted: YAML reads some hexadecimal digits as octal numbers.

    Raises: ValueError
    """
    digits = value.lower().replace(":", "").removeprefix("0x") if isinstance(value, str) else ""
    if not (1 <= len(digits) <= 16 and HEXADECIMAL.issuperset(digits) and int(digits, 16)):
        raise ValueError("a datapath id is up to 16 hexadecimal digits, not all 0, in quotes: '00000000000000a1'")
    return int(digits, 16)


def ip_address(value: object) -> str:
    """The IPv4 address of a host.

    Raises: ValueError
    """
    try:
        address = IPv4Address(value) if isinstance(value, str) else None
    except AddressValueError:
        address = None
    if address is None or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError("an address of a host is like 192.168.7.11")
    if address in IPv4Network(MANAGEMENT_NETWORK):
        raise ValueError(f"{MANAGEMENT_NETWORK} is the management network of emulations; choose another address")
    return str(address)


def mac_address(value: object) -> str:
    """The hardware address of a host. It must be quoted: YAML reads some as numbers to the base of 60.

    Raises: ValueError
    """
    octets = value.lower().replace("-", ":").split(":") if isinstance(value, str) else []
    are_bytes = all(len(octet) == 2 and HEXADECIMAL.issuperset(octet) for octet in octets)
    if len(octets) != 6 or not are_bytes or int(octets[0], 16) & 1 or not int("".join(octets), 16):
        raise ValueError("a hardware address is six hexadecimal bytes, not multicast, in quotes: '52:54:00:12:34:56'")
    return ":".join(octets)


_READERS: dict[str, Callable[[object], object]] = {
    "datapath_id": datapath_id,
    "ip": ip_address,
    "mac": mac_address,
}


def identifier_mistakes(nodes: Entries, links: Entries) -> Iterator[Mistake]:
    """Identifiers of the wrong kind of node, and those that are stated twice."""
    for index, node in nodes:
        is_switch = node.get("kind") == "switch"
        for key in _READERS:
            if node.get(key) is not None and (key == "datapath_id") != is_switch:
                owner = "a switch" if key == "datapath_id" else "a host, an edge or the cloud"
                yield ("nodes", index, key), node[key], f"only {owner} has one; remove it"
    for key, read in _READERS.items():
        stated = [(index, node[key]) for index, node in nodes if node.get(key) is not None]
        yield from _repeated(((("nodes", index, key), _read(read, value), value) for index, value in stated), "node")
    ports: list[tuple[tuple[str | int, ...], object, object]] = [
        (("links", index, "ports", end), (node, number), number)
        for index, link in links
        if isinstance(link.get("ends"), list) and isinstance(link.get("ports"), list)
        for end, (node, number) in enumerate(zip(link["ends"], link["ports"], strict=False))
        if isinstance(number, int)
    ]
    yield from _repeated(ports, "link of this node")


def _read(read: Callable[[object], object], value: object) -> object:
    try:
        return read(value)
    except ValueError:
        return None  # a mistake of its own


def _repeated(stated: Iterable[tuple[tuple[str | int, ...], object, object]], owner: str) -> Iterator[Mistake]:
    seen: list[object] = []
    for location, key, value in stated:
        if key is not None and key in seen:
            yield location, value, f"another {owner} has the same; each has its own"
        seen.append(key)
