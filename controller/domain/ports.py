"""Ports of a flow: one, a range, or any; and the masked values that a switch matches them by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PORT_BITS = 16
LAST_PORT = (1 << PORT_BITS) - 1


class PortRange(NamedTuple):
    """All ports from `lower` to `upper`, both included."""

    lower: int
    upper: int

    def __str__(self) -> str:
        return f"{self.lower}-{self.upper}"


Ports = int | PortRange | None
"""One port, a range of them, or any (None)."""


def ports_from_text(text: str) -> Ports:
    """The ports of a text such as "49152-65535".

    Raises: ValueError if it is not a range of ports from 1 to 65535.
    """
    lower, separator, upper = text.partition("-")
    if not separator or not all(part.isascii() and part.isdigit() and len(part) <= 5 for part in (lower, upper)):
        raise ValueError(f"{text!r} is not a range of ports; a range is written as 49152-65535")
    first, last = int(lower), int(upper)
    if not 1 <= first <= last <= LAST_PORT:
        raise ValueError(f"{text} is not a range of ports; it must go from a lower to a higher one of 1 to {LAST_PORT}")
    return first if first == last else PortRange(first, last)


def describe_ports(ports: Ports) -> str:
    """The ports for a sentence; "any" is the wildcard."""
    return "any" if ports is None else str(ports)


def ports_overlap(one: Ports, other: Ports) -> bool:
    """Whether both contain a common port."""
    if one is None or other is None:
        return True
    first, second = _as_range(one), _as_range(other)
    return first.lower <= second.upper and second.lower <= first.upper


def masked_ports(ports: Ports) -> tuple[int | tuple[int, int] | None, ...]:
    """The fewest matches that together are these ports: a port, (value, mask), or None for no match field at all.

    A range needs at most 30 of them, as 1-65534 does.
    """
    if not isinstance(ports, PortRange):
        return (ports,)
    return tuple(_aligned_blocks(ports))


def _aligned_blocks(ports: PortRange) -> Iterator[int | tuple[int, int]]:
    """The largest blocks of 2^n ports that start at a multiple of 2^n, from the lowest port up."""
    start = ports.lower
    while start <= ports.upper:
        size = start & -start
        while start + size - 1 > ports.upper:
            size //= 2
        yield start if size == 1 else (start, LAST_PORT + 1 - size)
        start += size


def _as_range(ports: int | PortRange) -> PortRange:
    return ports if isinstance(ports, PortRange) else PortRange(ports, ports)
