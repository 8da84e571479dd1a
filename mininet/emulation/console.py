"""Mininet's prompt with what Paceline adds: CPU shares, links and switches that change while training runs."""

from __future__ import annotations

from typing import Any

from mininet.cli import CLI
from mininet.log import setLogLevel

from emulation.fault_injection import FaultInjector
from emulation.network import Emulation
from machine import cgroups
from machine.errors import EmulationError


class Prompt(CLI):  # type: ignore[misc]
    """Mininet's command line; Ctrl-C at the prompt ends it like `exit`."""

    prompt = "paceline> "

    def __init__(self, emulation: Emulation) -> None:
        self.emulation = emulation
        self.outages = FaultInjector(emulation.plan, str(emulation.vswitch.directory))
        setLogLevel("output")
        super().__init__(emulation.net, script=None)

    def run(self) -> None:
        """Called by Mininet's constructor; the loop is started by `cmdloop_until_end` instead."""

    def cmdloop_until_end(self) -> None:
        """Read commands until `exit`, end of input or Ctrl-C at the prompt."""
        try:
            self.cmdloop()
        except KeyboardInterrupt:
            print()

    def do_share(self, line: str) -> None:
        """share HOST CORES: give a host that share of a core, e.g. `share edge1 0.06`."""
        try:
            self.set_share(line)
        except EmulationError as error:
            print(error)

    def do_link(self, line: str) -> None:
        """link A B down|up: cut a link or light it again, e.g. `link r1 r2 down`."""
        try:
            a, b, up = _parse(line, 2, "link A B down|up, like `link r1 r2 down`")
            self.outages.link(a, b, up)
        except EmulationError as error:
            print(error)

    def do_duct(self, line: str) -> None:
        """duct NAME down|up: cut all spans of a duct at once, or light them again, e.g. `duct east down`."""
        try:
            name, up = _parse(line, 1, "duct NAME down|up, like `duct east down`")
            self.outages.duct(name, up)
        except EmulationError as error:
            print(error)

    def do_switch(self, line: str) -> None:
        """switch NAME down|up: switch it off, or on again, when it is empty, e.g. `switch r3 down`."""
        try:
            name, up = _parse(line, 1, "switch NAME down|up, like `switch r3 down`")
            self.outages.switch(name, up)
        except EmulationError as error:
            print(error)

    def set_share(self, line: str) -> None:
        """Parse and do `HOST CORES`.

        Raises: EmulationError if there is no such host, or no such share.
        """
        host, _, share = line.strip().partition(" ")
        limited = {known.name: known for known in self.emulation.hosts if known.cpu_share is not None}
        if host not in limited:
            raise EmulationError(f"share: {host!r} has no CPU share to change; these have: {', '.join(limited)}")
        try:
            cores = float(share)
        except ValueError as error:
            raise EmulationError(f"share: {share!r} is no number of cores, like 0.25") from error
        if not 0.01 <= cores <= 64:
            raise EmulationError(f"share: {cores:g} cores: give 0.01 to 64")
        cgroups.set_share(limited[host].cgroup, cores)


def _parse(line: str, names: int, right: str) -> tuple[Any, ...]:
    *given, state = line.split() or [""]
    if len(given) != names or state not in ("up", "down"):
        raise EmulationError(f"{line!r} is not understood: write {right}")
    return *given, state == "up"
