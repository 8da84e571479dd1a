"""A network namespace as a machine of its own, joined to this one by a cable that can be pulled. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

NETWORK = "10.254.253.0/24"
"""Of the management network, in a part that the emulation does not use."""


class CutOffMachine:
    """Machine `number` (0 to 63): `address` is its own, `peer` that of this machine at the other end of its cable."""

    def __init__(self, number: int) -> None:
        base = NETWORK.rpartition(".")[0]
        self.peer, self.address = (f"{base}.{4 * number + place}" for place in (1, 2))
        self.name, self._cable, self._inside = f"plmachine{number}", f"plcable{number}", f"plinside{number}"
        self.before = ("ip", "netns", "exec", self.name)
        """The command that executes another one there."""
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", self._inside, "netns", self.name)
            _ip("address", "add", f"{self.peer}/30", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            _ip("-n", self.name, "address", "add", f"{self.address}/30", "dev", self._inside)
            _ip("-n", self.name, "link", "set", "lo", "up")
            self.join()
        except BaseException:
            self.remove()
            raise

    def cut(self) -> None:
        """Pull the cable: nothing is sent or received any more, and no connection ends."""
        _ip("-n", self.name, "link", "set", self._inside, "down")

    def join(self) -> None:
        """Plug the cable in."""
        _ip("-n", self.name, "link", "set", self._inside, "up")

    def remove(self) -> None:
        """Remove the machine; its programs have ended."""
        _ip("netns", "delete", self.name)


@contextmanager
def cut_off_machines(count: int) -> Iterator[list[CutOffMachine]]:
    """Make so many machines, and remove them."""
    with ExitStack() as made:
        yield [made.enter_context(closing_machine(number)) for number in range(count)]


@contextmanager
def closing_machine(number: int) -> Iterator[CutOffMachine]:
    """Make a machine, and remove it."""
    machine = CutOffMachine(number)
    try:
        yield machine
    finally:
        machine.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
